// The official TypeScript SDK, version 2, as a client: lists tools, calls one, prints one line of JSON.
// Not here: what is expected of it (tests/it/interop.rs).
//
// usage: node ts_v2.mjs URL|--stdio JSON --mode legacy|auto --tool NAME --args JSON [--header 'Name: value']

import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { args, headers, mode, program, tool, url } from './options.mjs';

const chosen = mode === 'auto' ? { versionNegotiation: { mode: 'auto' } } : {};
const client = new Client({ name: 'tollgate-ts-v2', version: '1.0.0' }, chosen);
const transport = program
    ? new StdioClientTransport(program)
    : new StreamableHTTPClientTransport(url, { requestInit: { headers } });
await client.connect(transport);
const { tools } = await client.listTools();
const result = await client.callTool({ name: tool, arguments: args });
const server = client.getServerVersion()?.name;
const version = client.getNegotiatedProtocolVersion();
const era = version >= '2026-07-28' ? 'modern' : 'legacy';
if (era === 'legacy' && !program) await transport.terminateSession();
await client.close();
console.log(JSON.stringify({ client: 'ts-v2', era, server, tools: tools.map((tool) => tool.name), result }));
