// Packs what would be published, as far as it has been built here: the package and the platform packages whose addon is in
// the root. The archives are left in dist/pack, and their paths printed.
//
// In git, package.json names no platform packages, since they exist only once published and a clone builds its own addon;
// and it is private, so that nobody publishes it without them.
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const staging = join(root, 'dist/npm');
const out = join(root, 'dist/pack');
const npm = process.env['npm_execpath'] ?? 'npm';

/** Runs npm, by this node where npm itself called us. */
function runNpm(args, cwd) {
  const [command, ...rest] = npm.endsWith('js') ? [process.execPath, npm, ...args] : [npm, ...args];
  return execFileSync(command, rest, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
}

function pack(folder) {
  const [{ filename }] = Object.values(
    JSON.parse(runNpm(['pack', '--json', '--ignore-scripts', '--pack-destination', out], folder)),
  );
  return join(out, filename);
}

for (const folder of [staging, out]) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
}
const napi = join(root, 'node_modules/@napi-rs/cli/dist/cli.js');
execFileSync(process.execPath, [napi, 'create-npm-dirs', '--npm-dir', 'dist/npm'], {
  cwd: root,
  stdio: 'ignore',
});

const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const platforms = readdirSync(staging);
const archives = [];
for (const platform of platforms) {
  const addon = `${manifest.napi.binaryName}.${platform}.node`;
  if (!existsSync(join(root, addon))) continue;
  copyFileSync(join(root, addon), join(staging, platform, addon));
  archives.push(pack(join(staging, platform)));
}

const main = join(staging, 'main');
mkdirSync(main);
const {
  private: _unpublishable,
  scripts: _scripts,
  devDependencies: _tools,
  napi: _napi,
  ...published
} = manifest;
const optionalDependencies = Object.fromEntries(
  platforms.map((platform) => [`${manifest.name}-${platform}`, manifest.version]),
);
writeFileSync(
  join(main, 'package.json'),
  `${JSON.stringify({ ...published, optionalDependencies }, null, 2)}\n`,
);
for (const file of [
  'dist/esm',
  'dist/cjs',
  'dist/guests/hello.elf',
  'dist/squib.wasm',
  'README.md',
  'CHANGELOG.md',
  'LICENSE-MIT',
  'LICENSE-APACHE',
]) {
  cpSync(join(root, file), join(main, file), { recursive: true });
}
archives.unshift(pack(main));
rmSync(staging, { recursive: true });
console.log(archives.join('\n'));
