// What the runners of the two rigs have in common.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('..', import.meta.url));
/** The rig's folder. */
export const rig = resolve(root, process.env.SQUIB_RIG ?? '../shared/rig');

const cache = process.env.XDG_CACHE_HOME ?? `${homedir()}/.cache`;
/** Where squib keeps what it fetches. */
export const cacheFolder = `${cache}/squib`;
const base = process.env.RIG_BASE ?? `${cache}/kvm-rig`;

/** Ends with nothing done, and says why. */
export function skip(why) {
  console.log(`SKIPPED: the tests in the rig, because ${why}\n0 passed, 0 failed`);
  process.exit(0);
}

export function run(command, args, settings = {}) {
  return spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28, ...settings });
}

/** Builds tests by `cargo test` with these arguments, and returns the path of each of `programs`. */
export function buildTests(programs, args, env = process.env) {
  const packages = new Set(programs.map(({ package: name }) => `--package=${name}`));
  const command = ['test', '--locked', '--no-run', '--message-format=json', ...args, ...packages];
  const { status, stdout } = run('cargo', command, { stdio: ['ignore', 'pipe', 'inherit'], env });
  if (status !== 0) process.exit(1);
  const built = stdout
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line))
    .filter((message) => message.executable && message.profile?.test);
  return programs.map((program) => {
    const { package: name, target } = program;
    const found = built.find((b) => b.target.name === target && b.package_id.includes(`/${name}#`));
    if (found === undefined) throw new Error(`cargo has built no ${target} of ${name}`);
    return { ...program, path: found.executable };
  });
}

/** Runs `command`, with the rig's output passed on, and counts its tests in the last line. */
export function report(command, args, limit) {
  const { status, stdout } = run(command, args, {
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: (limit + 60) * 1000,
  });
  process.stdout.write(stdout);
  const { passed, failed } = count(stdout);
  if (status !== 0) console.error(`the rig ended with status ${status}`);
  console.log(`${passed} passed, ${failed + (status === 0 ? 0 : 1)} failed`);
  process.exitCode = status === 0 && failed === 0 ? 0 : 1;
}

/** Passed and failed tests in the output of cargo's test programs and of jest. */
function count(output) {
  const total = { passed: 0, failed: 0 };
  const results = [...output.matchAll(/^test result: .*? (\d+) passed; (\d+) failed;/gm)];
  for (const [, passed, failed] of results) {
    total.passed += Number(passed);
    total.failed += Number(failed);
  }
  const [, jest] = output.match(/^Tests: +(.*)$/m) ?? [];
  const [, suites] = output.match(/^Test Suites: +(.*)$/m) ?? [];
  const number = (text, what) => Number(text?.match(`(\\d+) ${what}`)?.[1] ?? 0);
  total.passed += number(jest, 'passed');
  // A suite that cannot be run has no failed test.
  total.failed += Math.max(number(jest, 'failed'), number(suites, 'failed'));
  // A program that ended without a result counts as a failed test.
  const ended = results.length + (jest === undefined ? 0 : 1);
  total.failed += output.split('\n').filter((line) => line.startsWith('== ')).length - ended;
  return total;
}

/**
 * The rig's configuration for `kind`, `x86` or `arm64`, set up if it is not yet, and shown to work by `trial`, the arguments of
 * a run that is to succeed. Skips if not.
 */
export function prepare(runner, kind, variable, trial) {
  if (!existsSync(runner)) skip(`there is none at ${rig}; set SQUIB_RIG to its folder`);
  const configuration = () =>
    existsSync(`${base}/rig.conf`) ? readFileSync(`${base}/rig.conf`, 'utf8') : '';
  // Setting one up forgets what is not named, so x86 is always.
  if (!configuration().includes(`${variable}=`)) setUp(['x86', ...(kind === 'x86' ? [] : [kind])]);
  lendTools();
  const { status, stdout, stderr } = run(runner, ['-t', '60', ...trial], { timeout: 70_000 });
  if (status !== 0) skip(`it does not work here: ${lastLine(stdout + stderr)}`);
  return base;
}

/**
 * Sets up the rig. It asks apt for the archive that this machine uses, which is not known before lists have been fetched; only
 * root may fetch the machine's, so these are fetched into the cache folder.
 */
function setUp(kinds) {
  const apt = `${cacheFolder}/rig-apt`;
  mkdirSync(`${apt}/lists/partial`, { recursive: true });
  mkdirSync(`${apt}/cache/archives/partial`, { recursive: true });
  const config = [
    `Dir::State "${apt}";`,
    `Dir::State::status "/dev/null";`,
    `Dir::Cache "${apt}/cache";`,
    'APT::Sandbox::User "";',
  ];
  writeFileSync(`${apt}/apt.conf`, `${config.join('\n')}\n`);
  const env = { ...process.env, APT_CONFIG: `${apt}/apt.conf` };
  const update = run('apt-get', ['-q', 'update'], { timeout: 120_000, env });
  if (update.error) skip('it cannot be set up where there is no apt-get');
  if (update.status !== 0) skip(`apt-get cannot fetch package lists: ${lastLine(update.stderr)}`);
  const { status, stderr } = run(`${rig}/setup.sh`, kinds, { timeout: 180_000, env });
  if (status !== 0) skip(`it cannot be set up: ${lastLine(stderr)}`);
}

/**
 * The rig packs files by cpio and lists modules by depmod. Its own busybox has both; where the machine has not, the rig's shells
 * find functions of these names.
 */
function lendTools() {
  const busybox = `'${base}/bb-x86/bin/busybox'`;
  const tools = `${cacheFolder}/rig-tools.sh`;
  const lines = [
    `type cpio >/dev/null 2>&1 || cpio() { ${busybox} cpio "$@"; }`,
    `[ -x /sbin/depmod ] || /sbin/depmod() { ${busybox} depmod "$@"; }`,
  ];
  mkdirSync(cacheFolder, { recursive: true });
  writeFileSync(tools, `${lines.join('\n')}\n`);
  process.env.BASH_ENV = tools;
}

/** The last line of a program's output, which is what it complained of. */
export function lastLine(text) {
  return text?.trim().split('\n').at(-1) || 'it says nothing';
}
