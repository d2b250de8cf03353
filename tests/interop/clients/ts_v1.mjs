// The official TypeScript SDK, version 1, as a client: lists tools, calls one, prints one line of JSON.
// Not here: what is expected of it (tests/it/interop.rs).
//
// usage: node ts_v1.mjs URL|--stdio JSON [--sse] --tool NAME --args JSON [--header 'Name: value']

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { args, headers, program, sse, tool, url } from './options.mjs';

const client = new Client({ name: 'tollgate-ts-v1', version: '1.0.0' });
const init = { requestInit: { headers } };
const transport = program
    ? new StdioClientTransport(program)
    : sse
      ? new SSEClientTransport(url, init)
      : new StreamableHTTPClientTransport(url, init);
await client.connect(transport);
const { tools } = await client.listTools();
const result = await client.callTool({ name: tool, arguments: args });
const server = client.getServerVersion()?.name;
if (!program && !sse) await transport.terminateSession();
await client.close();
console.log(JSON.stringify({ client: 'ts-v1', era: 'legacy', server, tools: tools.map((tool) => tool.name), result }));
