// The official TypeScript SDK, version 1, as an OAuth client: logs in, calls a tool, steps up, calls another.
// Not here: its memory and browser (login.mjs); what is expected (tests/it/oauth.rs).
//
// usage: node oauth_v1.mjs URL --tool NAME --args JSON --higher NAME --higher-args JSON

import { UnauthorizedError } from '@modelcontextprotocol/sdk/client/auth.js';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { loggedIn, Login } from './login.mjs';
import { args, higher, higherArgs, tool, url } from './options.mjs';

const login = new Login('tollgate-ts-v1');
let client, transport;
// A transport cannot be started twice: a client that was sent to log in begins anew.
const fresh = () => {
    client = new Client({ name: 'tollgate-ts-v1', version: '1.0.0' });
    transport = new StreamableHTTPClientTransport(url, { authProvider: login });
    return transport;
};
fresh();
await loggedIn((again) => (again ? fresh() : transport), login, UnauthorizedError, (to) => client.connect(to));
const { tools } = await client.listTools();
const result = await client.callTool({ name: tool, arguments: args });
const before = login.asked.length;
const upgraded = await loggedIn(() => transport, login, UnauthorizedError, () => client.callTool({ name: higher, arguments: higherArgs }));
await transport.terminateSession();
await client.close();
console.log(
    JSON.stringify({
        client: 'ts-v1',
        era: 'legacy',
        tools: tools.map((tool) => tool.name),
        result,
        higher: upgraded,
        asked_before: before,
        asked: login.asked,
        tokens: login.history
    })
);
