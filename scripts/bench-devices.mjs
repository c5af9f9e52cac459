// What one exit to a device costs in each way that squib has, and in a bare loop on kvm-ioctls: the same guests, the same
// process, rounds in turn. Differences are within a round, so that what slows the machine slows all sides.
//
//   node scripts/bench-devices.mjs [ROUNDS] [soft | kvm]
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { backendCapabilities, Vm } from '../dist/esm/index.js';

// As benches/src/guest.rs has them.
const ENTRY = 0x1000;
const PORT = 0x510;
const MMIO = 0x20000;
const EXITS = { soft: 10_000, kvm: 2_500 };
const [rounds = '21', only] = process.argv.slice(2);
const ROUNDS = Number(rounds);

function median(values) {
  return values.sort((a, b) => a - b)[values.length >> 1];
}

/** The bench's own addon: guests with devices in Rust, in this process, because exits cost more in some than in others. */
function loadAddon() {
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
  return addon.exports;
}

/** Rounds of a guest in a VM of this process. */
function guest(backend, access, device, run) {
  const vm = Vm.create({ backend, memory: '64K' });
  vm.memory.write(ENTRY, codeOf(access));
  if (typeof device === 'function') {
    vm.mapDoorbell({ port: PORT, length: 1 }, device);
    vm.mapDoorbell({ address: MMIO, length: 1 }, device);
  } else if (device) {
    vm.map({ port: PORT, length: 1 }, device);
    vm.map({ address: MMIO, length: 4 }, device);
  }
  const vcpu = vm.createVcpu(0);
  const { cs, ds, ...system } = vcpu.systemRegisters;
  const base = { cs: { ...cs, base: 0n, selector: 0 }, ds: { ...ds, base: BigInt(MMIO) } };
  vcpu.systemRegisters = { ...system, ...base };
  const exits = EXITS[backend];
  return {
    async round() {
      const start = { rip: BigInt(ENTRY), rcx: BigInt(exits), rdx: BigInt(PORT), rbx: 0n };
      vcpu.registers = { ...vcpu.registers, ...start };
      const before = performance.now();
      const exit = await run(vcpu);
      const elapsed = performance.now() - before;
      if (exit.kind !== 'pio' || exit.port !== 0x80) throw new Error(`the guest ended with ${exit.kind}`);
      vcpu.run({ kind: 'complete' });
      return (elapsed * 1e6) / exits;
    },
    end: () => vm.close(),
  };
}

const { RustDevice, BareLoop, accesses, codeOf } = loadAddon();
const device = { read: () => 42, write() {} };
const onRing = () => {};
const answer = { kind: 'read', data: Uint8Array.of(42) };
const isEnd = (exit) => exit.kind === 'pio' && exit.port === 0x80;
const ofAddon = (guest, backend) => ({ round: () => guest.round(EXITS[backend]), end() {} });

/** The ways that there are to take this access, the one that others are put beside first. */
function ways(backend, access) {
  const rung = access.endsWith('write');
  const bare = (ioeventfd) => () => ofAddon(new BareLoop(access, ioeventfd), backend);
  const take = (vcpu) => {
    let exit = vcpu.run();
    while (!isEnd(exit)) exit = vcpu.run(exit.write ? undefined : answer);
    return exit;
  };
  const doorbell = () => guest(backend, access, onRing, (vcpu) => vcpu.runAsync());
  const all = [
    ['device in Rust', () => ofAddon(new RustDevice(backend, access), backend)],
    ['bare kvm-ioctls', backend === 'kvm' && bare(false)],
    ['TypeScript, called directly', () => guest(backend, access, device, (vcpu) => vcpu.run())],
    ['TypeScript, from a thread', () => guest(backend, access, device, (vcpu) => vcpu.runAsync())],
    ['exit left to the caller', () => guest(backend, access, undefined, take)],
    ['doorbell in TypeScript', rung && doorbell],
    ['bare ioeventfd', rung && backend === 'kvm' && bare(true)],
  ];
  return all.filter(([, make]) => make).map(([name, make]) => ({ name, way: make(), times: [], more: [] }));
}

const backends = ['soft'];
try {
  backendCapabilities('kvm');
  backends.push('kvm');
} catch (error) {
  console.log(`SKIPPED: TypeScript devices on kvm, because ${error.message}`);
}
const number = (value, width = 14) => value.toFixed(0).padStart(width);
for (const backend of backends.filter((name) => !only || name === only)) {
  for (const access of accesses()) {
    const all = ways(backend, access);
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
    const title = `${access} on ${backend}`.padEnd(30);
    console.log(`\n${title}${'ns'.padStart(14)}${'over Rust'.padStart(14)}${'times'.padStart(9)}`);
    const base = median([...all[0].times]);
    for (const { name, way, times, more } of all) {
      const time = median(times);
      console.log(
        `${name.padEnd(30)}${number(time)}${number(median(more))}${(time / base).toFixed(2).padStart(9)}`,
      );
      way.end();
    }
  }
}
