// What one exit to a device in TypeScript costs, beside one to a device in Rust: the same guest, the same machine, rounds
// in turn. The differences are within a round, so that what slows the machine slows both sides.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { backendCapabilities, Vm } from '../dist/esm/index.js';

const ENTRY = 0x1000;
const PORT = 0x510;
const EXITS = { soft: 60_000, kvm: 2_500 };
const ROUNDS = 21;

/** in al, dx; loop back; out 0x80, al: the port-read guest of benches/src/exits.rs */
const CODE = Uint8Array.of(0xec, 0xe2, 0xfd, 0xe6, 0x80);

function median(values) {
  return values.sort((a, b) => a - b)[values.length >> 1];
}

/** Rounds against a device in Rust, in a process of their own. */
function rustDevice() {
  const cargo = ['run', '--release', '--quiet', '-p', 'squib-bench', '--', '--exits-on-request'];
  const root = fileURLToPath(new URL('..', import.meta.url));
  const child = spawn('cargo', cargo, { cwd: root, stdio: ['pipe', 'pipe', 'inherit'] });
  const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    async round(backend) {
      child.stdin.write(`${backend} ${EXITS[backend]}\n`);
      const { value, done } = await answers.next();
      if (done) throw new Error('squib-bench ended');
      return Number(value);
    },
    end: () => child.stdin.end(),
  };
}

/** Rounds of the guest in a VM of this process. */
function guest(backend, device, run) {
  const vm = Vm.create({ backend, memory: '64K' });
  vm.memory.write(ENTRY, CODE);
  if (device) vm.map({ port: PORT, length: 1 }, device);
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

const device = { read: () => 42 };
const answer = { kind: 'read', data: Uint8Array.of(42) };
const ways = (backend, rust) => [
  ['device in Rust', { round: () => rust.round(backend), end() {} }],
  ['TypeScript, called directly', guest(backend, device, (vcpu) => vcpu.run())],
  ['TypeScript, from a thread', guest(backend, device, (vcpu) => vcpu.runAsync())],
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
const rust = rustDevice();
const number = (value, width = 14) => value.toFixed(0).padStart(width);
for (const backend of backends) {
  const all = ways(backend, rust).map(([name, way]) => ({ name, way, times: [], more: [] }));
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
rust.end();
