// What one exit to a device in TypeScript costs, beside one to a device in Rust: the same guest, the same machine, rounds
// in turn. The differences are within a round, so that what slows the machine slows both sides.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { backendCapabilities, Vm } from '../dist/esm/index.js';

const ENTRY = 0x1000;
const PORT = 0x510;
const EXITS = { soft: 60_000, kvm: 2_500 };
const ROUNDS = 21;

/** in al, dx; loop back; out 0x80, al: PORT_READ of benches/src/guest.rs */
const READ = Uint8Array.of(0xec, 0xe2, 0xfd, 0xe6, 0x80);
/** The same with out dx, al */
const WRITE = Uint8Array.of(0xee, 0xe2, 0xfd, 0xe6, 0x80);

function median(values) {
  return values.sort((a, b) => a - b)[values.length >> 1];
}

/** The bench's own addon: the guest with a device in Rust, in this process, because exits cost more in some than in others. */
function loadRustDevice() {
  const build = ['build', '--release', '--quiet', '-p', 'squib-bench', '--lib', '--message-format', 'json'];
  const root = fileURLToPath(new URL('..', import.meta.url));
  const { stdout, status } = spawnSync('cargo', build, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 26,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  if (status !== 0) throw new Error('squib-bench does not build');
  const artifacts = stdout
    .split('\n')
    .filter((line) => line.includes('"squib_bench_addon"'))
    .map((line) => JSON.parse(line));
  const addon = { exports: {} };
  process.dlopen(addon, artifacts.at(-1).filenames[0]);
  return addon.exports.RustDevice;
}

/** Rounds of the guest in a VM of this process. */
function guest(backend, device, run, code = READ) {
  const vm = Vm.create({ backend, memory: '64K' });
  vm.memory.write(ENTRY, code);
  if (typeof device === 'function') vm.mapDoorbell({ port: PORT, length: 1 }, device);
  else if (device) vm.map({ port: PORT, length: 1 }, device);
  const vcpu = vm.createVcpu(0);
  const { cs, ...system } = vcpu.systemRegisters;
  vcpu.systemRegisters = { ...system, cs: { ...cs, base: 0n, selector: 0 } };
  const exits = EXITS[backend];
  return {
    async round() {
      vcpu.registers = { ...vcpu.registers, rip: BigInt(ENTRY), rcx: BigInt(exits), rdx: BigInt(PORT) };
      const start = performance.now();
      const exit = await run(vcpu);
      const elapsed = performance.now() - start;
      if (exit.kind !== 'pio' || exit.port !== 0x80) throw new Error(`the guest ended with ${exit.kind}`);
      vcpu.run({ kind: 'complete' });
      return (elapsed * 1e6) / exits;
    },
    end: () => vm.close(),
  };
}

const RustDevice = loadRustDevice();
const device = { read: () => 42 };
const answer = { kind: 'read', data: Uint8Array.of(42) };
const rustDevice = (backend) => {
  const guest = new RustDevice(backend);
  return { round: () => guest.round(EXITS[backend]), end() {} };
};
const ways = (backend) => [
  ['device in Rust', rustDevice(backend)],
  ['TypeScript, called directly', guest(backend, device, (vcpu) => vcpu.run())],
  ['TypeScript, from a thread', guest(backend, device, (vcpu) => vcpu.runAsync())],
  [
    'doorbell, a write',
    guest(
      backend,
      () => {},
      (vcpu) => vcpu.runAsync(),
      WRITE,
    ),
  ],
  [
    'exit left to the caller',
    guest(backend, undefined, (vcpu) => {
      let exit = vcpu.run();
      while (exit.kind === 'pio' && !exit.write) exit = vcpu.run(answer);
      return exit;
    }),
  ],
];

const backends = ['soft'];
try {
  backendCapabilities('kvm');
  backends.push('kvm');
} catch (error) {
  console.log(`SKIPPED: TypeScript devices on kvm, because ${error.message}`);
}
const number = (value, width = 14) => value.toFixed(0).padStart(width);
for (const backend of backends) {
  const all = ways(backend).map(([name, way]) => ({ name, way, times: [], more: [] }));
  // The first round warms up.
  for (let round = 0; round <= ROUNDS; round += 1) {
    const times = [];
    for (const { way } of all) times.push(await way.round());
    if (round === 0) continue;
    for (const [i, { times: kept, more }] of all.entries()) {
      kept.push(times[i]);
      more.push(times[i] - times[0]);
    }
  }
  console.log(
    `\n${`port read on ${backend}`.padEnd(30)}${'ns'.padStart(14)}${'over Rust'.padStart(14)}${'times'.padStart(9)}`,
  );
  const base = median([...all[0].times]);
  for (const { name, way, times, more } of all) {
    const time = median(times);
    console.log(
      `${name.padEnd(30)}${number(time)}${number(median(more))}${(time / base).toFixed(2).padStart(9)}`,
    );
    way.end();
  }
}
