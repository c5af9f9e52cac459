// `just rig-arm64`: the tests of the KVM backend on aarch64, where an emulator runs a Linux for aarch64 with a KVM of its own.
//
//   node scripts/rig-arm64.mjs [--boots N]
//
// --boots is how often Debian's kernel, the rig's own, boots with one and with two vCPUs; 0 leaves it out. The programs are static
// and cross-compiled, so Rust's target aarch64-unknown-linux-musl is needed and no C compiler. The rig's folder is `SQUIB_RIG`,
// else `../shared/rig`. What is not there is skipped, out loud. The last line counts.
import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { parseArgs } from 'node:util';
import { buildTests, prepare, report, rig, run, skip } from './rig-shared.mjs';

const TARGET = 'aarch64-unknown-linux-musl';
const runner = `${rig}/kvm-rig-arm64.sh`;
const { values: options } = parseArgs({ options: { boots: { type: 'string', default: '1' } } });
const boots = Number(options.boots);

const PROGRAMS = [
  { package: 'squib-kvm', target: 'squib_kvm' },
  { package: 'squib-kvm', target: 'arm64' },
  ...(boots > 0 ? [{ package: 'squib-vmm', target: 'linux' }] : []),
];
/** Seconds that all of it may take. */
const LIMIT = 200 + 200 * boots;

/** Rust's own linker and start-up files link static programs for the target. */
const env = {
  ...process.env,
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER: 'rust-lld',
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUSTFLAGS: '-Clink-self-contained=yes',
};

const sysroot = run('rustc', ['--print', 'sysroot']).stdout.trim();
if (!existsSync(`${sysroot}/lib/rustlib/${TARGET}/lib`)) {
  skip(`Rust has no target ${TARGET} here: rustup target add ${TARGET}`);
}

const folder = mkdtempSync(`${tmpdir()}/squib-rig-`);
try {
  const script = `${folder}/tests`;
  const program = (text) => {
    writeFileSync(script, `#!/bin/sh\n${text}\n`);
    chmodSync(script, 0o755);
    return script;
  };
  const base = prepare(runner, 'arm64', 'A64_QEMU', [program('test -c /dev/kvm')]);
  const kernels = `${base}/k-arm64/boot`;
  const kernel = readdirSync(kernels).find((name) => name.startsWith('vmlinuz-'));
  const targets = ['--lib', ...PROGRAMS.slice(1).map(({ target }) => `--test=${target}`)];
  const programs = buildTests(PROGRAMS, [`--target=${TARGET}`, '--features=squib-kvm/gdb', ...targets], env);
  const environment = `export SQUIB_TEST_BOOTS='${boots}' SQUIB_TEST_KERNELS=/kernels SQUIB_TEST_BUSYBOX=/bin/busybox`;
  const commands = programs.map(({ package: name, target }) => {
    // A kernel's boot takes all processors there are.
    const threads = target === 'linux' ? 1 : 4;
    return `echo '== ${name} ${target}'; /tests/${target} --nocapture --test-threads=${threads}`;
  });
  const files = [
    ...programs.map(({ target, path }) => `${path}:/tests/${target}`),
    `${kernels}/${kernel}:/kernels/${kernel}`,
  ];
  const added = files.flatMap((file) => ['--add', file]);
  const all = program([environment, ...commands, 'exit 0'].join('\n'));
  report(runner, ['--smp', '2', '-m', '1536', '-t', `${LIMIT}`, ...added, all], LIMIT);
} finally {
  rmSync(folder, { recursive: true });
}
