// `just rig`: the tests of the KVM backend where KVM is real. A rig boots a Linux with a KVM of its own inside an emulator
// and runs a program there; on a machine whose KVM has hardware under it, the same tests run directly.
//
//   node scripts/rig.mjs [--smoke | --long] [--boots N] [--kernels DIR]
//
// --smoke leaves out all but the quick part; --long takes those tests long that can be; --boots is how often each kernel boots in each configuration; --kernels is a
// folder with Debian's kernels, `SQUIB_TEST_KERNELS` or squib's cache folder if it is not given. The rig's folder is
// `SQUIB_RIG`, else `../shared/rig`. What is not there is skipped, out loud. The last line counts.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const rig = resolve(root, process.env.SQUIB_RIG ?? '../shared/rig');
const runner = `${rig}/kvm-rig-x86.sh`;
const { values: options } = parseArgs({
  options: {
    smoke: { type: 'boolean', default: false },
    long: { type: 'boolean', default: false },
    boots: { type: 'string', default: '1' },
    kernels: { type: 'string', default: process.env.SQUIB_TEST_KERNELS ?? cacheFolder() },
  },
});

/** The test programs, and the tests in them that are the smoke part; none is all. */
const PROGRAMS = [
  { package: 'squib-kvm', target: 'squib_kvm', smoke: [] },
  { package: 'squib-kvm', target: 'kvm', smoke: [] },
  { package: 'squib-kvm', target: 'no_alloc', smoke: [] },
  { package: 'squib-kvm', target: 'debug', smoke: [] },
  { package: 'squib-kvm', target: 'leaks' },
  { package: 'squib-guests', target: 'backends' },
  { package: 'squib-vmm', target: 'backends' },
  {
    package: 'squib-vmm',
    target: 'linux',
    smoke: ['6_12_with_two_vcpus_and_a_split', '6_1_with_one_vcpu_and_a_full'],
  },
].filter(({ smoke }) => smoke !== undefined || !options.smoke);
/** The TypeScript tests that have something to do with a backend. */
const JEST = ['exits', 'devices', 'machine', 'memory'];
/** Seconds that all of it may take. */
const LIMIT = options.smoke ? 240 : (options.long ? 3000 : 900) + 400 * Number(options.boots);

function cacheFolder() {
  return `${process.env.XDG_CACHE_HOME ?? `${homedir()}/.cache`}/squib`;
}

/** Ends with nothing done, and says why. */
function skip(why) {
  console.log(`SKIPPED: the tests in the rig, because ${why}\n0 passed, 0 failed`);
  process.exit(0);
}

function run(command, args, settings = {}) {
  return spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28, ...settings });
}

/** Builds the test programs, and returns the path of each. */
function build() {
  const packages = new Set(PROGRAMS.map(({ package: name }) => `--package=${name}`));
  const args = [
    'test',
    '--locked',
    '--no-run',
    '--message-format=json',
    '--features=squib-kvm/gdb',
    ...packages,
  ];
  const { status, stdout } = run('cargo', args, { stdio: ['ignore', 'pipe', 'inherit'] });
  if (status !== 0) process.exit(1);
  const built = stdout
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line))
    .filter((message) => message.executable && message.profile?.test);
  return PROGRAMS.map((program) => {
    const { package: name, target } = program;
    const found = built.find((b) => b.target.name === target && b.package_id.includes(`/${name}#`));
    if (found === undefined) throw new Error(`cargo has built no ${target} of ${name}`);
    return { ...program, path: found.executable };
  });
}

/** The shell commands that run them all, in one line, as the rig wants them. Each runs even if one before it has failed; the output tells. */
function script(programs) {
  const long = options.long ? 'SQUIB_TEST_LONG=1' : '';
  const environment = `export SQUIB_TEST_BOOTS='${options.boots}' SQUIB_TEST_KERNELS='${resolve(options.kernels)}' ${long}`;
  const rust = programs.map(({ package: name, target, path, smoke }) => {
    const filter = options.smoke ? smoke : [];
    // A kernel's boot takes all processors there are.
    const threads = target === 'linux' ? '--test-threads=1' : '--test-threads=4';
    return `echo '== ${name} ${target}'; '${path}' --nocapture ${threads} ${filter.join(' ')}`;
  });
  const jest = `echo '== TypeScript'; node node_modules/jest/bin/jest.js --testTimeout=120000 -t kvm ${JEST.join(' ')}`;
  return [environment, ...rust, ...(options.smoke ? [] : [jest]), 'exit 0'].join('; ');
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
  total.passed += Number(jest?.match(/(\d+) passed/)?.[1] ?? 0);
  total.failed += Number(jest?.match(/(\d+) failed/)?.[1] ?? 0);
  // A program that ended without a result counts as a failed test.
  const ended = results.length + (jest === undefined ? 0 : 1);
  total.failed += output.split('\n').filter((line) => line.startsWith('== ')).length - ended;
  return total;
}

/** Whether the rig works here; skips if not. */
function prepare() {
  if (!existsSync(runner)) skip(`there is none at ${rig}; set SQUIB_RIG to its folder`);
  const base = process.env.RIG_BASE ?? `${process.env.XDG_CACHE_HOME ?? `${homedir()}/.cache`}/kvm-rig`;
  if (!existsSync(`${base}/rig.conf`)) {
    const { status, stderr } = run(`${rig}/setup.sh`, ['x86'], { timeout: 120_000 });
    if (status !== 0) skip(`it cannot be set up: ${lastLine(stderr)}`);
  }
  const trial = run(runner, ['-t', '60', '/bin/sh', '-c', 'test -c /dev/kvm'], { timeout: 70_000 });
  if (trial.status !== 0) skip(`it does not work here: ${lastLine(trial.stdout + trial.stderr)}`);
}

function lastLine(text) {
  return text?.trim().split('\n').at(-1) || 'it says nothing';
}

const direct =
  run('cargo', ['run', '--quiet', '--locked', '-p', 'squib-kvm', '--example', 'probe']).status === 0;
if (!direct) prepare();
if (!options.smoke) run('node', ['scripts/prepare.mjs'], { stdio: 'inherit' });
const commands = script(build());
const [program, args] = direct
  ? ['sh', ['-c', commands]]
  : [runner, ['--share', '--smp', '2', '-m', '3072', '-t', `${LIMIT}`, '--', 'sh', '-c', commands]];
const { status, stdout } = run(program, args, {
  stdio: ['ignore', 'pipe', 'inherit'],
  timeout: (LIMIT + 60) * 1000,
});
process.stdout.write(stdout);
const { passed, failed } = count(stdout);
if (status !== 0) console.error(`the rig ended with status ${status}`);
console.log(`${passed} passed, ${failed + (status === 0 ? 0 : 1)} failed`);
process.exitCode = status === 0 && failed === 0 ? 0 : 1;
