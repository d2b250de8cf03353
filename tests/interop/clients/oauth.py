"""The official Python SDK as an OAuth client: discovers, registers, logs in, calls a tool, steps up, calls another.

Not here: the provider and the person who agrees (fixture/provider.mjs); what is expected (tests/it/oauth.rs).

usage: oauth.py URL --mode auto|legacy --tool NAME --args JSON --higher NAME --higher-args JSON
  prints one line of JSON, with what was asked for at each authorization and the tokens that came of it
"""

import argparse
import asyncio
import json
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp.client import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata

SECONDS_MAX = 30
# Nobody listens there: the answer is read from the redirect.
REDIRECT = "http://127.0.0.1:9/callback"


class Memory:
    """What a client keeps between runs; here, for one."""

    def __init__(self) -> None:
        self.tokens, self.client, self.history = None, None, []

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens) -> None:
        self.tokens = tokens
        self.history.append(tokens.access_token)

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client) -> None:
        self.client = client


class Browser:
    """Follows redirects with its cookies until it is sent back to the client."""

    def __init__(self) -> None:
        self.asked, self.answer = [], None

    async def open(self, url: str) -> None:
        self.asked.append({name: values[0] for name, values in parse_qs(urlsplit(url).query).items()})
        async with httpx2.AsyncClient(follow_redirects=False, timeout=SECONDS_MAX) as http:
            for _ in range(20):
                if url.startswith(REDIRECT):
                    self.answer = parse_qs(urlsplit(url).query)
                    return
                answer = await http.get(url)
                if not answer.is_redirect:
                    raise RuntimeError(f"no redirect from {url}: {answer.status_code} {answer.text}")
                url = str(answer.url.join(answer.headers["location"]))
        raise RuntimeError("too many redirects")

    async def back(self) -> AuthorizationCodeResult:
        if "code" not in self.answer:
            raise RuntimeError(f"not authorized: {self.answer}")
        one = {name: values[0] for name, values in self.answer.items()}
        return AuthorizationCodeResult(code=one["code"], state=one.get("state"), iss=one.get("iss"))


async def run(options: argparse.Namespace) -> dict:
    memory, browser = Memory(), Browser()
    metadata = OAuthClientMetadata(
        client_name="tollgate-python", redirect_uris=[REDIRECT], token_endpoint_auth_method="none"
    )
    auth = OAuthClientProvider(options.url, metadata, memory, browser.open, browser.back)
    async with httpx2.AsyncClient(auth=auth, timeout=SECONDS_MAX) as http:
        transport = streamable_http_client(options.url, http_client=http)
        async with Client(transport, mode=options.mode) as client:
            tools = await client.list_tools()
            result = await client.call_tool(options.tool, json.loads(options.args))
            before = len(browser.asked)
            higher = await client.call_tool(options.higher, json.loads(options.higher_args))
            plain = [json.loads(it.model_dump_json(by_alias=True, exclude_none=True)) for it in (result, higher)]
            return {
                "client": "python",
                "era": "modern" if client.session.discover_result is not None else "legacy",
                "tools": [tool.name for tool in tools.tools],
                "result": plain[0],
                "higher": plain[1],
                "asked_before": before,
                "asked": browser.asked,
                "tokens": memory.history,
            }


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--mode", default="auto")
    parser.add_argument("--tool", required=True)
    parser.add_argument("--args", default="{}")
    parser.add_argument("--higher", required=True)
    parser.add_argument("--higher-args", default="{}")
    async with asyncio.timeout(SECONDS_MAX):
        print(json.dumps(await run(parser.parse_args())))


asyncio.run(main())
