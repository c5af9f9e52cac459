// What builds for systems that this machine is not: zig as the linker and cargo-zigbuild, which are wheels in a Python environment in
// the cache folder, and Rust's standard library for the target.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { cacheFolder, lastLine, run } from './rig-shared.mjs';

const TOOLS = ['ziglang==0.17.1', 'cargo-zigbuild==0.24.1'];

/** Something that this machine has not got, so that a check has to be skipped; the message says what. */
export class Missing extends Error {}

/** @throws Missing when the command fails, with what it says, behind `what`. */
export function must(what, command, args, settings) {
  const { error, status, stdout, stderr } = run(command, args, settings);
  if (error) throw new Missing(`${what}: there is no ${command}`);
  if (status !== 0) throw new Missing(`${what}: ${lastLine(stderr || stdout)}`);
  return stdout;
}

/** Rust's standard library for `target`, fetched by rustup if it is not there. */
export function needTarget(target) {
  const sysroot = run('rustc', ['--print', 'sysroot']).stdout.trim();
  if (existsSync(`${sysroot}/lib/rustlib/${target}/lib`)) return;
  must(`Rust has no target ${target} here`, 'rustup', ['target', 'add', target]);
}

/** The environment in which `cargo zigbuild` works, fetched if it is not there. */
export function crossEnvironment() {
  const folder = python(TOOLS, 'cross-tools');
  return { ...process.env, PATH: `${folder}/bin:${process.env.PATH}` };
}

/** A Python environment in the cache folder with these packages. */
function python(packages, name) {
  const folder = `${cacheFolder}/${name}`;
  const list = `${folder}/packages`;
  if (!existsSync(list) || readFileSync(list, 'utf8') !== packages.join(' ')) {
    must('no Python environment can be made', 'python3', ['-m', 'venv', '--clear', folder]);
    const pip = ['--quiet', '--disable-pip-version-check', 'install', ...packages];
    must(`pip cannot fetch ${packages.join(' and ')}`, `${folder}/bin/pip`, pip);
    writeFileSync(list, packages.join(' '));
  }
  return folder;
}
