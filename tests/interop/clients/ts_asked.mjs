// The official TypeScript SDK, version 1, as a client that a server asks back: sampling, elicitation, roots.
// Not here: what is expected of it (tests/it/children.rs).
//
// usage: node ts_asked.mjs URL --tool WORD [--header 'Name: value']; WORD comes back in every answer

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
    CreateMessageRequestSchema,
    ElicitRequestSchema,
    ListRootsRequestSchema
} from '@modelcontextprotocol/sdk/types.js';
import { headers, tool as word, url } from './options.mjs';

const asked = [];
const capabilities = { sampling: {}, elicitation: {}, roots: { listChanged: true } };
const client = new Client({ name: `asked-${word}`, version: '1.0.0' }, { capabilities });
client.setRequestHandler(CreateMessageRequestSchema, (request) => {
    asked.push(request.method);
    return { model: 'none', role: 'assistant', content: { type: 'text', text: `sampled ${word}` } };
});
client.setRequestHandler(ElicitRequestSchema, (request) => {
    asked.push(request.method);
    return { action: 'accept', content: { name: `elicited ${word}`, check: true } };
});
client.setRequestHandler(ListRootsRequestSchema, (request) => {
    asked.push(request.method);
    return { roots: [{ uri: `file:///${word}`, name: `root ${word}` }] };
});
const transport = new StreamableHTTPClientTransport(url, { requestInit: { headers } });
await client.connect(transport);
const { tools } = await client.listTools();
const text = async (name, args) => JSON.stringify((await client.callTool({ name, arguments: args })).content);
const sampled = await text('trigger-sampling-request', { prompt: 'hello', maxTokens: 10 });
const elicited = await text('trigger-elicitation-request', {});
const roots = await text('get-roots-list', {});
await transport.terminateSession();
await client.close();
console.log(JSON.stringify({ tools: tools.map((tool) => tool.name), sampled, elicited, roots, asked }));
