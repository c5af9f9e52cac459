// Builds the native addon for this platform into the package's root, and its types into ts/binding.d.cts.
//
//   node scripts/build-addon.mjs [--debug] [--target TRIPLE] …   further options go to `napi build`
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const given = process.argv.slice(2);
const profile = given.includes('--debug') ? [] : ['--release', '--strip'];
const header = '/** The types of the addon, made by `npm run build:addon` from crates/squib-node. */\n';
const napi = fileURLToPath(new URL('../node_modules/@napi-rs/cli/dist/cli.js', import.meta.url));
const args = [
  ...[
    'build',
    '--platform',
    '--no-js',
    '--no-const-enum',
    '--manifest-path',
    'crates/squib-node/Cargo.toml',
    '--package-json-path',
    'package.json',
  ],
  ...['--output-dir', '.', '--dts', 'ts/binding.d.cts', '--dts-header', header],
  ...profile,
  ...given.filter((option) => option !== '--debug'),
];
const { status } = spawnSync(process.execPath, [napi, ...args], { cwd: root, stdio: 'inherit' });
process.exit(status ?? 1);
