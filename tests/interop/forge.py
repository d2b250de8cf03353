"""Makes tokens that are good and tokens that are forged, with a library that is not the gateway's.

Not here: what is expected of them (tests/it/scorecard/tokens.rs).

usage: forge.py --issuer URL --audience URL --other-secret TEXT --canary URL
  prints one line of JSON: {"jwks": the public keys, "good": {name: token}, "forged": [[name, token, taken by]]}
  `taken by` shows that each attack works on somebody. `verifier` is careless: it believes the header about algorithm
  and key, fetches keys from where the header says, and looks at no claim. `decoder` only reads the claims.
"""

import argparse
import base64
import hashlib
import hmac
import json
import time
import urllib.request
import warnings

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc import jwe, jwk, jwt

warnings.simplefilter("ignore")


def b64(data: bytes | str) -> str:
    return base64.urlsafe_b64encode(data.encode() if isinstance(data, str) else data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def hs256(header: dict | str, claims: dict | str, key: bytes) -> str:
    return signed(header, claims, lambda data: hmac.new(key, data, hashlib.sha256).digest())


def signed(header: dict | str, claims: dict | str, sign) -> str:
    """A token of any header and claims, as text or as values; the library would refuse to make most of them."""
    parts = [b64(part if isinstance(part, str) else json.dumps(part)) for part in (header, claims)]
    data = ".".join(parts)
    return f"{data}.{b64(sign(data.encode()))}"


class Keys:
    """The issuer's keys, an attacker's, and those of the same issuer in another environment."""

    def __init__(self) -> None:
        self.rsa = jwk.RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig", "alg": "RS256"})
        self.ec = jwk.ECKey.generate_key("P-256", {"kid": "ec", "use": "sig", "alg": "ES256"})
        self.ed = jwk.OKPKey.generate_key("Ed25519", {"kid": "ed", "use": "sig", "alg": "EdDSA"})
        self.evil = jwk.RSAKey.generate_key(2048, {"kid": "evil", "use": "sig", "alg": "RS256"})
        self.staging = jwk.RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig", "alg": "RS256"})

    def jwks(self) -> dict:
        return {"keys": [key.as_dict(private=False) for key in (self.rsa, self.ec, self.ed)]}

    def rs256(self, header: dict | str, claims: dict | str, key: jwk.RSAKey | None = None) -> str:
        private = (key or self.rsa).private_key
        return signed(header, claims, lambda data: private.sign(data, padding.PKCS1v15(), hashes.SHA256()))


class Forge:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.keys, self.now = options, Keys(), int(time.time())
        self.header = {"typ": "at+jwt", "alg": "RS256", "kid": "rsa"}
        self.claims = {
            "iss": options.issuer,
            "aud": options.audience,
            "sub": "alice",
            "exp": self.now + 600,
            "nbf": self.now - 10,
            "iat": self.now,
            "scope": "mcp:read",
        }

    def good(self) -> dict[str, str]:
        keys, claims = self.keys, self.claims
        array = claims | {"aud": ["https://elsewhere.example", self.options.audience]}
        return {
            "RS256": jwt.encode(self.header, claims, keys.rsa, algorithms=["RS256"]),
            "ES256": jwt.encode({"alg": "ES256", "kid": "ec"}, claims, keys.ec, algorithms=["ES256"]),
            "EdDSA": jwt.encode({"alg": "EdDSA", "kid": "ed"}, claims, keys.ed, algorithms=["EdDSA"]),
            "array of audiences": jwt.encode(self.header, array, keys.rsa, algorithms=["RS256"]),
            "without nbf and typ": keys.rs256(
                {"alg": "RS256", "kid": "rsa"}, {name: value for name, value in claims.items() if name != "nbf"}
            ),
            # The helper that makes forgeries makes a good one, too: what is refused is refused for what is wrong in it.
            "by hand": keys.rs256(self.header, claims),
        }

    def algorithms(self):
        """Who says which algorithm it is."""
        keys, claims = self.keys, self.claims
        for alg in ("none", "None", "nOnE", "NONE", ""):
            yield f"alg {alg!r}", f"{b64(json.dumps(self.header | {'alg': alg}))}.{b64(json.dumps(claims))}."
        yield "alg none with a signature", keys.rs256(self.header | {"alg": "none"}, claims)
        yield "alg absent", keys.rs256({"typ": "at+jwt", "kid": "rsa"}, claims)
        yield "alg a list", keys.rs256(self.header | {"alg": ["RS256"]}, claims)
        twice = f'{{"alg":"RS256","kid":"rsa","alg":"none"}}'
        yield "alg twice, the last none", f"{b64(twice)}.{b64(json.dumps(claims))}."
        public = keys.rsa.private_key.public_key()
        spki = keys.rsa.as_pem(private=False)
        pkcs1 = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        entry = keys.rsa.as_dict(private=False)
        confused = {
            "the public PEM": spki,
            "the public PEM without its last newline": spki.rstrip(),
            "the public PEM in PKCS 1": pkcs1,
            "the public key in DER": der,
            "the JWKS": json.dumps(keys.jwks()).encode(),
            "the JWKS without spaces": json.dumps(keys.jwks(), separators=(",", ":")).encode(),
            "the key of the JWKS": json.dumps(entry).encode(),
            "the modulus": entry["n"].encode(),
        }
        for what, key in confused.items():
            yield f"HS256 with {what}", hs256(self.header | {"alg": "HS256"}, claims, key)
        other = self.options.other_secret.encode()
        yield "HS256 with another issuer's secret", hs256({"typ": "JWT", "alg": "HS256"}, claims, other)
        for alg, algorithm in (("RS384", hashes.SHA384()), ("RS512", hashes.SHA512())):
            sign = lambda data, algorithm=algorithm: keys.rsa.private_key.sign(data, padding.PKCS1v15(), algorithm)
            yield f"{alg}, which is not pinned", signed(self.header | {"alg": alg}, claims, sign)
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        sign = lambda data: keys.rsa.private_key.sign(data, pss, hashes.SHA256())
        yield "PS256, which is not pinned", signed(self.header | {"alg": "PS256"}, claims, sign)
        yield "ES256 by the RSA key", keys.rs256(self.header | {"alg": "ES256"}, claims)
        yield "RS256 by the curve's key", self.es256({"alg": "RS256", "kid": "ec"}, raw=True)

    def es256(self, header: dict, raw: bool) -> str:
        def sign(data: bytes) -> bytes:
            der = self.keys.ec.private_key.sign(data, ec.ECDSA(hashes.SHA256()))
            r, s = decode_dss_signature(der)
            return r.to_bytes(32, "big") + s.to_bytes(32, "big") if raw else der

        return signed(header, self.claims, sign)

    def headers(self):
        """What the header offers: keys, places of keys, extensions, encryption."""
        keys, claims, canary = self.keys, self.claims, self.options.canary
        for kid in ("../../../../dev/null", "/dev/null", "file:///dev/null", "\0"):
            yield f"kid {kid!r} with an empty secret", hs256(self.header | {"alg": "HS256", "kid": kid}, claims, b"")
        sql = "x' UNION SELECT 'secret' --"
        yield "kid with SQL", hs256(self.header | {"alg": "HS256", "kid": sql}, claims, b"secret")
        yield "kid of 10 kB", keys.rs256(self.header | {"kid": "k" * 10_000}, claims)
        yield "kid a number", keys.rs256(self.header | {"kid": 1}, claims)
        yield "kid unknown", keys.rs256(self.header | {"kid": "evil"}, claims, keys.evil)
        evil = keys.evil.as_dict(private=False)
        for name, value in (("jku", f"{canary}/jku"), ("x5u", f"{canary}/x5u"), ("jwk", evil)):
            yield f"{name} of the attacker", keys.rs256(self.header | {name: value, "kid": "evil"}, claims, keys.evil)
            yield f"{name} with the known kid", keys.rs256(self.header | {name: value}, claims, keys.evil)
        chain = b64(b"not a certificate")
        yield "x5c of the attacker", keys.rs256(self.header | {"x5c": [chain], "kid": "evil", "jwk": evil}, claims, keys.evil)
        for crit in (["tollgate-unknown"], ["exp"], [], "exp"):
            yield f"crit {crit!r}", keys.rs256(self.header | {"crit": crit, "tollgate-unknown": True}, claims)
        unencoded = json.dumps(self.header | {"b64": False, "crit": ["b64"]})
        data = f"{b64(unencoded)}.{json.dumps(claims)}"
        signature = keys.rsa.private_key.sign(data.encode(), padding.PKCS1v15(), hashes.SHA256())
        yield "b64 false, the payload encoded", keys.rs256(unencoded, claims)
        yield "b64 false, the payload in the clear", f"{data.replace(' ', '')}.{b64(signature)}"
        yield "b64 false without crit", keys.rs256(self.header | {"b64": False}, claims)
        inner = json.dumps(claims)
        protected = {"alg": "RSA-OAEP", "enc": "A256GCM", "kid": "rsa", "typ": "at+jwt"}
        encryption = jwk.RSAKey.import_key({k: v for k, v in keys.rsa.as_dict(private=False).items() if k not in ("use", "alg")})
        yield "encrypted to the issuer's key", jwe.encrypt_compact(protected, inner, encryption, ["RSA-OAEP", "A256GCM"])
        dir_key = jwk.OctKey.import_key(b"0" * 32)
        yield "encrypted with a key of zeros", jwe.encrypt_compact(
            {"alg": "dir", "enc": "A256GCM"}, inner, dir_key, ["dir", "A256GCM"]
        )
        for typ in ("id+jwt", "logout+jwt", "dpop+jwt", "secevent+jwt"):
            yield f"typ {typ}", keys.rs256(self.header | {"typ": typ}, claims)

    def signatures(self):
        """What stands where the signature should be."""
        keys, claims = self.keys, self.claims
        whole = keys.rs256(self.header, claims)
        head, body, signature = whole.split(".")
        yield "no signature", f"{head}.{body}."
        yield "two parts", f"{head}.{body}"
        yield "four parts", f"{whole}.{signature}"
        yield "another's claims under a signature", f"{head}.{b64(json.dumps(claims | {'sub': 'root'}))}.{signature}"
        flipped = bytearray(unb64(signature))
        flipped[0] ^= 1
        yield "a signature with one bit changed", f"{head}.{body}.{b64(bytes(flipped))}"
        yield "a signature with a byte more", f"{head}.{body}.{b64(unb64(signature) + b'x')}"
        yield "a signature of zeros", f"{head}.{body}.{b64(bytes(256))}"
        yield "ES256 with r = s = 0", signed({"alg": "ES256", "kid": "ec"}, claims, lambda _: bytes(64))
        yield "ES256 with a signature in DER", self.es256({"alg": "ES256", "kid": "ec"}, raw=False)
        yield "EdDSA with a signature of zeros", signed({"alg": "EdDSA", "kid": "ed"}, claims, lambda _: bytes(64))
        yield "the attacker's key under the known kid", keys.rs256(self.header, claims, keys.evil)
        yield "a token of another environment", keys.rs256(self.header, claims, keys.staging)

    def contents(self):
        """Claims that are wrong under a signature that is right."""
        keys, claims, now = self.keys, self.claims, self.now

        def said(**changes) -> str:
            changed = {name: value for name, value in (claims | changes).items() if value is not ...}
            return keys.rs256(self.header, changed)

        audience, issuer = self.options.audience, self.options.issuer
        for what, aud in {
            "of another": "https://elsewhere.example/mcp",
            "missing": ...,
            "null": None,
            "empty": "",
            "a list without ours": ["https://elsewhere.example/mcp"],
            "an empty list": [],
            "a number": 1,
            "an object": {audience: True},
            "ours with more after it": audience + ".evil.example",
            "ours cut short": audience[:-1],
            "ours in a sentence": f"x {audience}",
        }.items():
            yield f"aud {what}", said(aud=aud)
        for what, iss in {
            "of another": "https://evil.example",
            "missing": ...,
            "a list": [issuer],
            "with more after it": issuer + ".evil.example",
            "null": None,
        }.items():
            yield f"iss {what}", said(iss=iss)
        for what, exp in {
            "past": now - 600,
            "missing": ...,
            "as text": str(now + 600),
            "negative": -1,
            "zero": 0,
            "null": None,
            "true": True,
        }.items():
            yield f"exp {what}", said(exp=exp)
        raw = json.dumps({name: value for name, value in claims.items() if name != "exp"})
        for exp in ("1e308", "1e400", "18446744073709551616", "9223372036854775808", "-1e308"):
            yield f"exp {exp}", keys.rs256(self.header, f'{raw[:-1]}, "exp": {exp}}}')
        yield "nbf in the future", said(nbf=now + 600)
        yield "nbf as text", said(nbf=str(now + 600))
        yield "nbf 1e308", keys.rs256(self.header, json.dumps(claims | {"nbf": 0}).replace('"nbf": 0', '"nbf": 1e308'))
        for what, sub in {"missing": ..., "empty": "", "a number": 1, "null": None}.items():
            yield f"sub {what}", said(sub=sub)
        for name, value in (("nonce", "n-0S6_WzA2Mj"), ("at_hash", "77QmUPtjPfzWtF2AnpK9RQ")):
            for header in (self.header | {"typ": "JWT"}, {"alg": "RS256", "kid": "rsa"}):
                yield f"an id token with {name}, {header.get('typ')}", keys.rs256(header, claims | {name: value})
        yield "a token bound to a key", said(cnf={"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"})
        yield "a token of 20 kB", said(filler="x" * 15_000)
        for name, first in (("aud", "https://elsewhere.example"), ("sub", "root"), ("iss", "https://evil.example"), ("exp", 1), ("scope", "admin")):
            twice = f'{{"{name}": {json.dumps(first)}, {json.dumps(claims)[1:]}'
            yield f"{name} twice", keys.rs256(self.header, twice)
        yield "claims that are a list", keys.rs256(self.header, json.dumps([claims]))
        yield "claims that are no JSON", keys.rs256(self.header, "alice")
        yield "claims with text after them", keys.rs256(self.header, json.dumps(claims) + " {}")

    def forged(self):
        yield from self.algorithms()
        yield from self.headers()
        yield from self.signatures()
        yield from self.contents()


class Naive:
    """The verifiers of the cautionary tales."""

    def __init__(self, forge: Forge) -> None:
        self.forge = forge
        self.known = {key["kid"]: key for key in forge.keys.jwks()["keys"]}

    def takes(self, token: str) -> str | None:
        for name, read in (("verifier", self.verified), ("decoder", self.decoded)):
            try:
                if read(token):
                    return name
            except Exception:
                continue
        return None

    def decoded(self, token: str) -> bool:
        header, claims, *_ = token.split(".", 2) if "{" not in token else [token.split(".")[0], token[token.index("{") :]]
        claims = claims[: claims.index("}") + 1] if claims.startswith("{") else unb64(claims)
        return bool(json.loads(unb64(header))) and bool(json.loads(claims)["sub"])

    def verified(self, token: str) -> bool:
        parts = token.split(".")
        if len(parts) == 5:
            return self.decrypted(token)
        header = json.loads(unb64(parts[0]))
        alg = str(header.get("alg") or "none").lower()
        if alg == "none":
            return True
        data, signature = ".".join(parts[:2]).encode(), unb64(parts[2])
        if alg == "hs256":
            return any(hmac.compare_digest(hmac.new(k, data, hashlib.sha256).digest(), signature) for k in self.secrets(header))
        for name in ("jku", "x5u"):
            if name in header:
                # The canary answers with nothing useful; that somebody asked is what counts.
                urllib.request.urlopen(header[name], timeout=5).read()
        entry = header.get("jwk") or self.known.get(header.get("kid")) or next(iter(self.known.values()))
        key = jwk.import_key(entry).public_key
        if isinstance(key, rsa.RSAPublicKey):
            algorithm = {"rs384": hashes.SHA384(), "rs512": hashes.SHA512()}.get(alg, hashes.SHA256())
            scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32) if alg == "ps256" else padding.PKCS1v15()
            key.verify(signature, data, scheme, algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            # The libraries of CVE-2022-21449 took a signature of zeros; this one takes any encoding.
            if signature.strip(b"\0"):
                self.curve(key, signature, data)
        elif signature.strip(b"\0"):
            key.verify(signature, data)
        return True

    def curve(self, key, signature: bytes, data: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        if len(signature) == 64:
            signature = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))

    def decrypted(self, token: str) -> bool:
        private = {k: v for k, v in self.forge.keys.rsa.as_dict(private=True).items() if k not in ("use", "alg")}
        for key, algorithms in (
            (jwk.RSAKey.import_key(private), ["RSA-OAEP", "A256GCM"]),
            (jwk.OctKey.import_key(b"0" * 32), ["dir", "A256GCM"]),
        ):
            try:
                return bool(jwe.decrypt_compact(token, key, algorithms=algorithms).plaintext)
            except Exception:
                continue
        return False

    def secrets(self, header: dict) -> list[bytes]:
        """A verifier that has one kind of key material and uses it with whatever algorithm the token names."""
        keys = self.forge.keys
        public = keys.rsa.private_key.public_key()
        pem, der = serialization.Encoding.PEM, serialization.Encoding.DER
        entry = keys.rsa.as_dict(private=False)
        spki = keys.rsa.as_pem(private=False)
        return [
            spki,
            spki.rstrip(),
            public.public_bytes(pem, serialization.PublicFormat.PKCS1),
            public.public_bytes(der, serialization.PublicFormat.SubjectPublicKeyInfo),
            json.dumps(keys.jwks()).encode(),
            json.dumps(keys.jwks(), separators=(",", ":")).encode(),
            json.dumps(entry).encode(),
            entry["n"].encode(),
            self.forge.options.other_secret.encode(),
            # What a file or a table gives for the `kid` that was put together for it.
            b"" if "null" in str(header.get("kid")) or header.get("kid") == "\0" else b"secret",
        ]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--issuer", "--audience", "--other-secret", "--canary"):
        parser.add_argument(name, required=True)
    forge = Forge(parser.parse_args())
    naive = Naive(forge)
    good = forge.good()
    refused = [name for name, token in good.items() if naive.takes(token) != "verifier"]
    assert not refused, f"the naive verifier refuses good tokens: {refused}"
    forged = [[name, token, naive.takes(token)] for name, token in forge.forged()]
    print(json.dumps({"jwks": forge.keys.jwks(), "good": good, "forged": forged}))


main()
