// Builds the WebAssembly module, dist/squib.wasm, from crates/squib-web.
//
// The target comes from `rustup target add`. Where rustup cannot fetch it (no such mirror, a distribution's Rust),
// Debian's packages do: its compiler and library sources are unpacked into the user's cache folder, without root and
// without installing anything, and cargo builds the standard library from them.
//
//   node scripts/build-wasm.mjs [--check] [--toolchain rustup|debian]
//
// --check only checks that the portable crates compile for the target.

import { execFileSync, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const TARGET = 'wasm32-unknown-unknown';
const PORTABLE = ['squib-core', 'squib-x86', 'squib-soft', 'squib-devices', 'squib-vmm', 'squib-web'];

const root = fileURLToPath(new URL('..', import.meta.url));
const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'squib', 'toolchain');

/** The output of a command, or undefined when it fails. */
function output(command, args) {
  const run = spawnSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  return run.status === 0 ? run.stdout.trim() : undefined;
}

/** rustup's toolchain with the target added, or undefined. */
function rustup() {
  const added = spawnSync('rustup', ['target', 'add', TARGET], {
    cwd: root,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  return added.status === 0 ? { env: {}, args: [] } : undefined;
}

/** The packages that Debian's WebAssembly-capable Rust consists of, at the versions of the package lists. */
function debianPackages() {
  const dependency = (name, pattern) => {
    const lines = output('apt-cache', ['depends', name])?.split('\n') ?? [];
    const found = lines
      .map((line) => line.match(/^\s*Depends: (\S+)$/)?.[1])
      .find((p) => p && pattern.test(p));
    if (!found) throw new Error(`no package for ${name} in apt's lists; run apt-get update, or use rustup`);
    return found;
  };
  const std = dependency('libstd-rust-web-dev', /^libstd-rust-web-\d/);
  return ['rustc-web', 'rust-web-src', 'libstd-rust-web-dev', std, dependency(std, /^libllvm\d/)];
}

/** Debian's compiler under the cache folder, driven by rustup's cargo. */
function debian() {
  const host = output('rustc', ['-vV'])?.match(/^host: (.*)$/m)?.[1];
  const sysroot = output('rustc', ['--print', 'sysroot']);
  if (!host || !sysroot) throw new Error('rustc does not run; install Rust from https://rustup.rs');
  const packages = debianPackages();
  const dir = join(cache, 'debian');
  if (!existsSync(join(dir, 'usr/bin/rustc'))) {
    mkdirSync(cache, { recursive: true });
    const fresh = mkdtempSync(join(cache, 'fetch-'));
    try {
      process.stderr.write(`fetching ${packages.join(', ')} into ${dir}\n`);
      execFileSync('apt-get', ['-q', 'download', ...packages], {
        cwd: fresh,
        stdio: ['ignore', 'ignore', 'inherit'],
      });
      const unpacked = join(fresh, 'root');
      for (const file of readdirSync(fresh)) execFileSync('dpkg-deb', ['-x', file, unpacked], { cwd: fresh });
      rmSync(dir, { recursive: true, force: true });
      renameSync(unpacked, dir);
    } finally {
      rmSync(fresh, { recursive: true, force: true });
    }
  }
  const libraries = readdirSync(join(dir, 'usr/lib'))
    .map((name) => join(dir, 'usr/lib', name))
    .filter((path) => /-linux-gnu/.test(path) && statSync(path).isDirectory());
  return {
    env: {
      RUSTC: join(dir, 'usr/bin/rustc'),
      // Building the standard library is an unstable option of cargo.
      RUSTC_BOOTSTRAP: '1',
      LD_LIBRARY_PATH: libraries.join(':'),
      // The linker for WebAssembly comes with rustup's toolchain.
      PATH: `${join(sysroot, 'lib/rustlib', host, 'bin')}:${process.env.PATH}`,
    },
    args: ['-Zbuild-std=std,panic_abort'],
    cargo: join(sysroot, 'bin/cargo'),
    // Objects of two compilers do not mix.
    targetDir: join(cache, 'target'),
  };
}

function cargo(toolchain, args) {
  const targetDir = toolchain.targetDir ?? process.env.CARGO_TARGET_DIR ?? join(root, 'target');
  const run = spawnSync(toolchain.cargo ?? 'cargo', [...args, '--target', TARGET, ...toolchain.args], {
    cwd: root,
    env: { ...process.env, ...toolchain.env, CARGO_TARGET_DIR: targetDir },
    stdio: 'inherit',
  });
  if (run.error)
    throw new Error(`cargo does not run (${run.error.message}); install Rust from https://rustup.rs`);
  if (run.status !== 0) process.exit(run.status ?? 1);
  return join(targetDir, TARGET);
}

const { values: options } = parseArgs({
  options: { check: { type: 'boolean' }, toolchain: { type: 'string' } },
});
const toolchains = { rustup, debian };
if (options.toolchain && !(options.toolchain in toolchains)) {
  throw new Error(`no toolchain ${options.toolchain}: there are rustup and debian`);
}
const toolchain = options.toolchain ? toolchains[options.toolchain]() : (rustup() ?? debian());
if (!toolchain) process.exit(1);

if (options.check) {
  cargo(toolchain, ['check', ...PORTABLE.flatMap((name) => ['-p', name])]);
} else {
  const out = cargo(toolchain, [
    'build',
    '--release',
    '--config',
    'profile.release.strip=true',
    '-p',
    'squib-web',
  ]);
  mkdirSync(join(root, 'dist'), { recursive: true });
  copyFileSync(join(out, 'release', 'squib_web.wasm'), join(root, 'dist', 'squib.wasm'));
}
