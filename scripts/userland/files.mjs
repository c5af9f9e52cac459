// The files of a Debian userland, from its packages. Nothing is installed, and no root is needed.
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const PACKAGES = [
  ...[
    'bash',
    'bc',
    'busybox-static',
    'bzip2',
    'coreutils',
    'dash',
    'diffutils',
    'findutils',
    'gawk',
    'gcc',
    'grep',
    'gzip',
  ],
  ...['libc6-dev', 'nodejs', 'openssl', 'perl', 'python3', 'sed', 'sqlite3', 'tar', 'xz-utils'],
];

/** What no program reads, and what would only make the RAM disk larger. */
const LEFT_OUT = ['doc', 'info', 'locale', 'man'].map((name) => `usr/share/${name}`);

const here = (name) => fileURLToPath(new URL(name, import.meta.url));

/** The folder with the files, unpacked there if they are not yet. */
export function userlandFiles(cache, progress) {
  const files = join(cache, 'files');
  if (!existsSync(join(cache, 'unpacked'))) unpack(cache, files, progress);
  for (const name of ['programs', 'environment', 'init']) {
    const to = join(files, name === 'init' ? 'init' : `${name}.sh`);
    copyFileSync(here(`${name}.sh`), to);
    chmodSync(to, 0o755);
  }
  return files;
}

function unpack(cache, files, progress) {
  rmSync(cache, { recursive: true, force: true });
  const debs = join(cache, 'debs');
  for (const folder of [debs, files, join(cache, 'archives/partial')]) mkdirSync(folder, { recursive: true });
  // As if nothing were installed, so that everything that the packages need is to be fetched.
  const settings = [
    'APT::Sandbox::User=',
    `Dir::Cache=${cache}`,
    'Dir::State::status=/dev/null',
    'Debug::NoLocking=1',
  ];
  const options = ['-q', ...settings.flatMap((setting) => ['-o', setting])];
  const plan = ['--no-install-recommends', '--print-uris', '-y', 'install', ...PACKAGES];
  const list = execFileSync('apt-get', [...options, ...plan], { encoding: 'utf8' });
  const names = [...list.matchAll(/^'\S+' ([^_\s]+)_/gm)].map((match) => match[1]);
  progress(`downloading ${names.length} packages`);
  execFileSync('apt-get', [...options, 'download', ...names], {
    cwd: debs,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  progress('unpacking them');
  for (const deb of readdirSync(debs)) execFileSync('dpkg-deb', ['-x', join(debs, deb), files]);
  for (const folder of LEFT_OUT) rmSync(join(files, folder), { recursive: true, force: true });
  for (const folder of ['dev', 'proc', 'sys', 'tmp']) mkdirSync(join(files, folder), { recursive: true });
  copyFileSync(join(files, 'bin/busybox'), join(files, 'bin/busybox.static'));
  rmSync(debs, { recursive: true });
  writeFileSync(join(cache, 'unpacked'), `${names.join('\n')}\n`);
}

/** The files as an initial RAM disk: the path of a cpio archive. */
export function ramDisk(cache, files) {
  const archive = join(cache, 'initrd.cpio');
  const out = openSync(archive, 'w');
  execFileSync('sh', ['-c', 'find . | ./bin/busybox.static cpio -o -H newc'], {
    cwd: files,
    stdio: ['ignore', out, 'ignore'],
  });
  return archive;
}
