// The official TypeScript SDK, version 1, as a client: lists tools, calls one, prints one line of JSON.
// Not here: what is expected of it (tests/it/interop.rs).
//
// usage: node ts_v1.mjs URL --tool NAME --args JSON [--header 'Name: value']

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { args, headers, tool, url } from './options.mjs';

const client = new Client({ name: 'tollgate-ts-v1', version: '1.0.0' });
const transport = new StreamableHTTPClientTransport(url, { requestInit: { headers } });
await client.connect(transport);
const { tools } = await client.listTools();
const result = await client.callTool({ name: tool, arguments: args });
const server = client.getServerVersion()?.name;
await transport.terminateSession();
await client.close();
console.log(JSON.stringify({ client: 'ts-v1', era: 'legacy', server, tools: tools.map((tool) => tool.name), result }));
