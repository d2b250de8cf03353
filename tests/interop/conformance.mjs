// Runs the official conformance suite against a server directly and through a gateway, and compares check by check.
// Not here: the server it is usually run against (fixture/server.mjs).
//
// usage: node conformance.mjs --direct URL --through URL [--requirements 2025-11-25] [--out DIR] [--scenario NAME]
//   Without --requirements both sets are run. Exit 1 if any check is worse through the gateway than directly, or if a
//   check that the direct run made is missing; 2 if the direct run itself is not what it should be.

import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const here = dirname(fileURLToPath(import.meta.url));
const suite = join(here, 'node_modules/@modelcontextprotocol/conformance/dist/index.js');
/// From good to bad. A check's status may be better through the gateway, never worse.
const order = ['SUCCESS', 'INFO', 'SKIPPED', 'WARNING', 'FAILURE'];
/// The suite takes 3 to 6 seconds; a gateway that hangs must not hold the tests for ever.
const SUITE_MS_MAX = 180_000;

const { values: options } = parseArgs({
    options: {
        direct: { type: 'string' },
        through: { type: 'string' },
        requirements: { type: 'string', multiple: true, default: ['2025-11-25', '2026-07-28'] },
        scenario: { type: 'string' },
        out: { type: 'string' }
    }
});
if (!options.direct || !options.through) {
    console.error('usage: node conformance.mjs --direct URL --through URL [--requirements SET] [--out DIR] [--scenario NAME]');
    process.exit(2);
}

function run(url, requirements, out) {
    const chosen = options.scenario ? ['--scenario', options.scenario, '--spec-version', requirements] : ['--requirements', requirements];
    return new Promise((resolve, reject) => {
        const child = spawn(process.execPath, [suite, 'server', '--url', url, ...chosen, '-o', out], {
            stdio: ['ignore', 'pipe', 'pipe']
        });
        let said = '';
        child.stdout.on('data', (chunk) => (said += chunk));
        child.stderr.on('data', (chunk) => (said += chunk));
        const deadline = setTimeout(() => child.kill('SIGKILL'), SUITE_MS_MAX);
        child.on('error', reject);
        child.on('close', (code, signal) => {
            clearTimeout(deadline);
            if (signal) reject(new Error(`the suite against ${url} ran over ${SUITE_MS_MAX} ms; it said last:\n${said.slice(-2000)}`));
            else resolve({ code, total: /Total: .*/.exec(said)?.[0] ?? said.slice(-500) });
        });
    });
}

/// The worst status of each scenario and check id, with the message of the worst.
async function read(out) {
    const worst = new Map();
    for (const folder of (await readdir(out)).sort()) {
        const scenario = folder.replace(/^server-/, '').replace(/-\d{4}-\d{2}-\d{2}T.*$/, '');
        const checks = JSON.parse(await readFile(join(out, folder, 'checks.json'), 'utf8'));
        for (const check of checks) {
            const key = `${scenario} ${check.id}`;
            const known = worst.get(key);
            if (!known || order.indexOf(check.status) > order.indexOf(known.status)) {
                worst.set(key, { status: check.status, message: check.errorMessage ?? '' });
            }
        }
    }
    return worst;
}

const base = options.out ?? (await mkdtemp(join(tmpdir(), 'tollgate-conformance-')));
let regressions = 0;
for (const requirements of options.requirements) {
    const results = {};
    for (const [side, url] of [['direct', options.direct], ['through', options.through]]) {
        const out = join(base, requirements, side);
        await rm(out, { recursive: true, force: true });
        await mkdir(out, { recursive: true });
        const { code, total } = await run(url, requirements, out);
        results[side] = await read(out);
        console.log(`${requirements} ${side.padEnd(7)} exit ${code}  ${total}`);
        if (side === 'direct' && (code !== 0 || results.direct.size === 0)) {
            console.error(`the direct run is not a baseline: exit ${code}, ${results.direct.size} checks`);
            process.exit(2);
        }
    }
    let same = 0;
    for (const [key, direct] of results.direct) {
        const through = results.through.get(key) ?? { status: 'MISSING', message: 'the check was not made' };
        const worse = through.status === 'MISSING' || order.indexOf(through.status) > order.indexOf(direct.status);
        if (!worse) {
            same += 1;
            continue;
        }
        regressions += 1;
        console.log(`  WORSE ${key}: ${direct.status} -> ${through.status}  ${through.message.slice(0, 400)}`);
    }
    // A check that only the gateway's run made and failed is a regression too: direct, there was nothing to complain of.
    for (const [key, through] of results.through) {
        if (results.direct.has(key) || !['FAILURE', 'WARNING'].includes(through.status)) continue;
        regressions += 1;
        console.log(`  WORSE ${key}: (not made) -> ${through.status}  ${through.message.slice(0, 400)}`);
    }
    console.log(`${requirements} ${same} of ${results.direct.size} checks as good as direct`);
}
if (!options.out) await rm(base, { recursive: true, force: true });
console.log(regressions === 0 ? 'no regression' : `${regressions} regressions`);
process.exit(regressions === 0 ? 0 : 1);
