// `just rig`: the tests of the KVM backend where KVM is real. A rig boots a Linux with a KVM of its own inside an emulator
// and runs a program there; on a machine whose KVM has hardware under it, the same tests run directly.
//
//   node scripts/rig.mjs [--smoke | --long] [--boots N] [--kernels DIR]
//
// --smoke leaves out all but the quick part; --long takes those tests long that can be; --boots is how often each kernel boots in
// each configuration; --kernels is a folder with Debian's kernels, `SQUIB_TEST_KERNELS` if it is not given, and without that the
// rig's own 6.12, or squib's cache folder where no rig is needed. The rig's folder is `SQUIB_RIG`, else `../shared/rig`. What is
// not there is skipped, out loud. The last line counts.
import { existsSync, readdirSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { buildTests, cacheFolder, prepare, report, rig, root, run } from './rig-shared.mjs';

const runner = `${rig}/kvm-rig-x86.sh`;
const { values: options } = parseArgs({
  options: {
    smoke: { type: 'boolean', default: false },
    long: { type: 'boolean', default: false },
    boots: { type: 'string', default: '1' },
    kernels: { type: 'string', default: process.env.SQUIB_TEST_KERNELS },
  },
});

/**
 * The test programs, and the tests in them that are the smoke part; none is all. In the rig only `alone` ones, which run one VM at
 * a time, get both processors. With two, several VMs at once made the rig's own kernel crash in 3 runs of 3, which no program can do,
 * or their guests end in a triple fault with the RIP, CR3 and GDT of that kernel; kept on one processor none did.
 */
const PROGRAMS = [
  { package: 'squib-kvm', target: 'squib_kvm', smoke: [] },
  { package: 'squib-kvm', target: 'kvm', smoke: [] },
  { package: 'squib-kvm', target: 'dirty_ring', smoke: [] },
  { package: 'squib-kvm', target: 'no_alloc', smoke: [] },
  { package: 'squib-kvm', target: 'debug', smoke: [] },
  { package: 'squib-kvm', target: 'leaks' },
  { package: 'squib-guests', target: 'backends' },
  { package: 'squib-vmm', target: 'backends' },
  { package: 'squib-vmm', target: 'doorbells', smoke: [] },
  { package: 'squib-vmm', target: 'coalesced', smoke: [] },
  {
    package: 'squib-vmm',
    target: 'linux',
    alone: true,
    smoke: ['6_12_with_two_vcpus_and_a_split', '6_12_with_one_vcpu_and_a_full'],
  },
].filter(({ smoke }) => smoke !== undefined || !options.smoke);
/** The TypeScript tests that have something to do with a backend. */
const JEST = ['cli', 'devices', 'doorbells', 'exits', 'machine', 'memory', 'native'];
/** Says what a KVM is worth; its status is 0 where guests run at speed. */
const PROBE = 'target/debug/examples/probe';
/** Seconds that all of it may take. */
const LIMIT = options.smoke ? 240 : (options.long ? 3000 : 900) + 400 * Number(options.boots);

/**
 * The shell commands that run them all, in one line, as the rig wants them. Each runs even if one before it has failed; the output
 * tells. Tests skip where KVM does not work, so they are not begun before it is seen to.
 */
function script(programs, kernels, busybox) {
  const long = options.long ? 'SQUIB_TEST_LONG=1' : '';
  const files = `SQUIB_TEST_KERNELS='${resolve(kernels)}' SQUIB_TEST_BUSYBOX='${busybox}'`;
  const environment = `export SQUIB_TEST_BOOTS='${options.boots}' ${files} ${long}`;
  const names = (existsSync(kernels) ? readdirSync(kernels) : []).filter((name) =>
    name.startsWith('vmlinuz-'),
  );
  const absent = ['6.1', '6.12'].filter(
    (version) => !names.some((name) => name.startsWith(`vmlinuz-${version}.`)),
  );
  for (const version of absent) {
    console.log(`SKIPPED: boots of Debian's ${version}, because there is none in ${kernels}`);
  }
  const pinned = direct ? '' : 'taskset 1 ';
  const rust = programs.map(({ package: name, target, path, smoke, alone }) => {
    const filter = options.smoke ? [...smoke] : [];
    if (target === 'linux')
      filter.push(...absent.map((version) => `--skip=_${version.replace('.', '_')}_with`));
    const [prefix, threads] = alone ? ['', 1] : [pinned, 4];
    return `echo '== ${name} ${target}'; ${prefix}'${path}' --nocapture --test-threads=${threads} ${filter.join(' ')}`;
  });
  const jest = `echo '== TypeScript'; ${pinned}node node_modules/jest/bin/jest.js -i --testTimeout=120000 -t kvm ${JEST.join(' ')}`;
  return [
    environment,
    // Tests that run at the same time share the descriptors.
    'ulimit -n $(ulimit -Hn)',
    `'${root}${PROBE}' || exit 1`,
    ...rust,
    ...(options.smoke ? [] : [jest]),
    'exit 0',
  ].join('; ');
}

run('cargo', ['build', '--quiet', '--locked', '-p', 'squib-kvm', '--example', 'probe'], { stdio: 'inherit' });
const direct = run(PROBE, []).status === 0;
const base = direct ? '' : prepare(runner, 'x86', 'X86_QEMU', ['/bin/sh', '-c', 'test -c /dev/kvm']);
const [kernels, busybox] = direct
  ? [cacheFolder, `${cacheFolder}/busybox`]
  : [`${base}/k-x86/boot`, `${base}/bb-x86/bin/busybox`];
if (!options.smoke) run('node', ['scripts/prepare.mjs'], { stdio: 'inherit' });
const programs = buildTests(PROGRAMS, ['--features=squib-kvm/gdb']);
const commands = script(programs, options.kernels ?? kernels, busybox);
const [program, args] = direct
  ? ['sh', ['-c', commands]]
  : [runner, ['--share', '--smp', '2', '-m', '3072', '-t', `${LIMIT}`, '--', 'sh', '-c', commands]];
report(program, args, LIMIT);
