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
        header: { type: 'string', multiple: true, default: [] }
    }
});

export const url = new URL(positionals[0]);
export const { mode, tool, higher } = values;
export const args = JSON.parse(values.args);
export const higherArgs = JSON.parse(values['higher-args']);
export const headers = Object.fromEntries(values.header.map((line) => line.split(/: (.*)/s, 2)));
// A client that waits for ever must not hold the tests.
setTimeout(() => {
    console.error('no answer in 30 s');
    process.exit(3);
}, 30_000).unref();
