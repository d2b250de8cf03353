// An OAuth client's memory and browser, for both versions of the TypeScript SDK.
// Not here: the clients (oauth_v1.mjs, oauth_v2.mjs); the provider and the person who agrees (../fixture/provider.mjs).

// Nobody listens there: the answer is read from the redirect.
const REDIRECT = 'http://127.0.0.1:9/callback';

/// What the SDK calls an OAuthClientProvider. `redirectToAuthorization` goes through the login at once; the SDK then
/// says that authorization is missing, and the caller hands over `answer` with `finishAuth` and tries again.
export class Login {
    asked = [];
    history = [];
    redirectUrl = REDIRECT;

    constructor(name) {
        this.clientMetadata = {
            client_name: name,
            redirect_uris: [REDIRECT],
            grant_types: ['authorization_code', 'refresh_token'],
            response_types: ['code'],
            token_endpoint_auth_method: 'none'
        };
    }

    clientInformation() {
        return this.client;
    }

    saveClientInformation(client) {
        this.client = client;
    }

    tokens() {
        return this.current;
    }

    saveTokens(tokens) {
        this.current = tokens;
        this.history.push(tokens.access_token);
    }

    saveCodeVerifier(verifier) {
        this.verifier = verifier;
    }

    codeVerifier() {
        return this.verifier;
    }

    saveDiscoveryState(state) {
        this.discovered = state;
    }

    discoveryState() {
        return this.discovered;
    }

    async redirectToAuthorization(url) {
        this.asked.push(Object.fromEntries(url.searchParams));
        const cookies = new Map();
        for (let hop = 0; hop < 20; hop++) {
            if (url.href.startsWith(REDIRECT)) {
                if (!url.searchParams.has('code')) throw new Error(`not authorized: ${url.search}`);
                this.answer = url.searchParams;
                return;
            }
            const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
            const answer = await fetch(url, { redirect: 'manual', headers: { cookie } });
            if (answer.status < 300 || answer.status > 399) {
                throw new Error(`no redirect from ${url}: ${answer.status} ${await answer.text()}`);
            }
            for (const line of answer.headers.getSetCookie()) {
                const [, name, value] = line.match(/^([^=]+)=([^;]*)/);
                if (value) cookies.set(name, value);
                else cookies.delete(name);
            }
            url = new URL(answer.headers.get('location'), url);
        }
        throw new Error('too many redirects');
    }
}

/// Does something; when it needs a login, gives the transport the answer of one and does it again.
export async function loggedIn(transport, login, unauthorized, act) {
    try {
        return await act(transport());
    } catch (error) {
        if (!(error instanceof unauthorized)) throw error;
        await transport().finishAuth(login.answer.get('code'), login.answer.get('iss') ?? undefined);
        return act(transport(true));
    }
}
