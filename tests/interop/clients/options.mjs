// The command line that the TypeScript clients share.
// Not here: the clients (ts_v1.mjs, ts_v2.mjs).

import { parseArgs } from 'node:util';

const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
        mode: { type: 'string', default: 'legacy' },
        tool: { type: 'string' },
        args: { type: 'string', default: '{}' },
        higher: { type: 'string' },
        'higher-args': { type: 'string', default: '{}' },
        stdio: { type: 'string' },
        sse: { type: 'boolean', default: false },
        header: { type: 'string', multiple: true, default: [] }
    }
});

export const url = positionals[0] && new URL(positionals[0]);
// A program to speak with instead of a URL: {command, args, env}.
export const program = values.stdio && JSON.parse(values.stdio);
export const { mode, sse, tool, higher } = values;
export const args = JSON.parse(values.args);
export const higherArgs = JSON.parse(values['higher-args']);
export const headers = Object.fromEntries(values.header.map((line) => line.split(/: (.*)/s, 2)));
// A client that waits for ever must not hold the tests.
setTimeout(() => {
    console.error('no answer in 30 s');
    process.exit(3);
}, 30_000).unref();
