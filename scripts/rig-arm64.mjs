// `just rig-arm64`: the tests of the KVM backend on aarch64, where an emulator runs a Linux for aarch64 with a KVM of its own.
//
//   node scripts/rig-arm64.mjs [--boots N] [--gic 2|3]
//
// --boots is how often Debian's kernel, the rig's own, boots with one and with two vCPUs; 0 leaves it out. --gic is the version of the
// emulated machine's interrupt controller, and so of its guests': 3 if it is not given. The Rust tests are static and cross-compiled,
// so Rust's target aarch64-unknown-linux-musl is needed and no C compiler; the TypeScript tests need what rig-arm64-node.mjs says, and
// the file system of it all mke2fs. The rig's folder is `SQUIB_RIG`, else `../shared/rig`. What is not there is skipped, out loud.
// The last line counts.
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { parseArgs } from 'node:util';
import { Missing, must, needTarget } from './cross.mjs';
import { addNode } from './rig-arm64-node.mjs';
import { buildTests, prepare, report, rig, root, skip } from './rig-shared.mjs';

const TARGET = 'aarch64-unknown-linux-musl';
const runner = `${rig}/kvm-rig-arm64.sh`;
const { values: options } = parseArgs({
  options: { boots: { type: 'string', default: '1' }, gic: { type: 'string', default: '3' } },
});
const boots = Number(options.boots);
if (!['2', '3'].includes(options.gic))
  throw new Error(`there is no GICv${options.gic} to be had: --gic 2 or 3`);
/** The rig's own choice of a processor; the option ends up as words of the emulator's command line, where a later machine counts. */
const CPU = `max,pauth-impdef=on,sve=off,sme=off -machine gic-version=${options.gic}`;

const PROGRAMS = [
  { package: 'squib-kvm', target: 'squib_kvm' },
  { package: 'squib-kvm', target: 'arm64' },
  ...(boots > 0 ? [{ package: 'squib-vmm', target: 'linux' }] : []),
];
/** The TypeScript tests that have something to do with a backend. */
const JEST = ['arm64', 'devices', 'machine', 'memory'];
/** Seconds that all of it may take. */
const LIMIT = 500 + 200 * boots;
/** MiB of the root file system. */
const DISK = 600;

/** Rust's own linker and start-up files link static programs for the target. */
const env = {
  ...process.env,
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER: 'rust-lld',
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUSTFLAGS: '-Clink-self-contained=yes',
};

/** Does `work`, which may miss something; what is done about that is up to `without`. */
function attempt(work, without) {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof Missing)) throw error;
    return without(error.message);
  }
}

/** Builds what says what a KVM is worth, and returns its path. */
function buildProbe() {
  const args = [
    'build',
    '--quiet',
    '--locked',
    `--target=${TARGET}`,
    '--package=squib-kvm',
    '--example=probe',
  ];
  must('the probe is needed', 'cargo', args, { env });
  return `${root}target/${TARGET}/debug/examples/probe`;
}

/** The root file system in `folder`, and the commands that run all tests in it. */
function fill(folder, base) {
  const kernels = `${base}/k-arm64/boot`;
  const kernel = readdirSync(kernels).find((name) => name.startsWith('vmlinuz-'));
  const targets = ['--lib', ...PROGRAMS.slice(1).map(({ target }) => `--test=${target}`)];
  const programs = buildTests(PROGRAMS, [`--target=${TARGET}`, '--features=squib-kvm/gdb', ...targets], env);
  for (const name of ['bin', 'kernels', 'tests']) mkdirSync(`${folder}/${name}`);
  copyFileSync(`${base}/bb-arm64/bin/busybox`, `${folder}/bin/busybox`);
  symlinkSync('busybox', `${folder}/bin/sh`);
  copyFileSync(`${kernels}/${kernel}`, `${folder}/kernels/${kernel}`);
  const rust = programs.map(({ package: name, target, path }) => {
    copyFileSync(path, `${folder}/tests/${target}`);
    // A kernel's boot takes all processors there are.
    const threads = target === 'linux' ? 1 : 4;
    return `echo '== ${name} ${target}'; /tests/${target} --nocapture --test-threads=${threads}`;
  });
  const jest = attempt(
    () => {
      addNode(folder, base);
      const command = `node node_modules/jest/bin/jest.js -i --testTimeout=120000 -t kvm ${JEST.join(' ')}`;
      return [`echo '== TypeScript'; cd /squib && ${command}`];
    },
    (why) => {
      console.log(`SKIPPED: the TypeScript tests on aarch64, because ${why}`);
      return [];
    },
  );
  copyFileSync(buildProbe(), `${folder}/tests/probe`);
  const environment = `export SQUIB_TEST_BOOTS='${boots}' SQUIB_TEST_KERNELS=/kernels SQUIB_TEST_BUSYBOX=/bin/busybox`;
  // Tests skip where KVM does not work, so they are not begun before it is seen to.
  return [environment, '/tests/probe || exit 1', ...rust, ...jest, 'exit 0'].join('; ');
}

attempt(() => needTarget(TARGET), skip);
const folder = mkdtempSync(`${tmpdir()}/squib-rig-`);
process.on('exit', () => rmSync(folder, { recursive: true }));
const trial = `${folder}/trial`;
writeFileSync(trial, '#!/bin/sh\ntest -c /dev/kvm\n');
chmodSync(trial, 0o755);
const base = prepare(runner, 'arm64', 'A64_QEMU', ['--cpu', CPU, trial]);
const system = `${folder}/system`;
mkdirSync(system);
const commands = fill(system, base);
const image = `${folder}/image`;
const mke2fs = ['-q', '-t', 'ext4', '-O', '^has_journal', '-d', system, image, `${DISK}M`];
// Users other than root do not have its folder in their path.
const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
attempt(() => must('a file system is needed', 'mke2fs', mke2fs, { env: { ...process.env, PATH } }), skip);
report(
  runner,
  ['--cpu', CPU, '--image', image, '--smp', '2', '-m', '1536', '-t', `${LIMIT}`, '--', 'sh', '-c', commands],
  LIMIT,
);
