// What one exit to a device in TypeScript costs, from the guest's instruction and back: called directly, when the vCPU
// runs on this thread, and through the event loop, when it has a thread of its own. Run by `npm run bench`.
import { probeKvm } from '../dist/esm/backend.js';
import { Vm } from '../dist/esm/index.js';

const ENTRY = 0x1000;
const PORT = 0x510;
// Loops of CX accesses, then a write to a port where nothing is.
const GUESTS = [
  // out dx, al; loop back; out 0x80, al
  ['port write', [0xee, 0xe2, 0xfd, 0xe6, 0x80]],
  // in al, dx; loop back; out 0x80, al
  ['port read', [0xec, 0xe2, 0xfd, 0xe6, 0x80]],
];
const ROUNDS = 11;

const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

/** Median nanoseconds of an exit; `run` runs the vCPU to the next exit that no device claims. */
async function cost(backend, code, count, run) {
  const vm = Vm.create({ backend, memory: '64K' });
  let seen = 0;
  vm.map({ port: PORT, length: 1 }, { read: () => ++seen & 0xff, write: () => void ++seen });
  vm.memory.write(ENTRY, Uint8Array.from(code));
  const vcpu = vm.createVcpu(0);
  const system = vcpu.systemRegisters;
  vcpu.systemRegisters = { ...system, cs: { ...system.cs, base: 0n, selector: 0 } };
  const times = [];
  for (let round = 0; round < ROUNDS; round++) {
    const registers = vcpu.registers;
    vcpu.registers = { ...registers, rip: BigInt(ENTRY), rcx: BigInt(count), rdx: BigInt(PORT), rflags: 2n };
    const start = process.hrtime.bigint();
    const exit = await run(vcpu);
    times.push(Number(process.hrtime.bigint() - start) / count);
    if (exit.kind !== 'pio' || exit.port !== 0x80) throw new Error(`the guest ended with ${exit.kind}`);
    vcpu.run({ kind: 'complete' });
  }
  if (seen !== ROUNDS * count) throw new Error(`the device saw ${seen} of ${ROUNDS * count} accesses`);
  vm.close();
  return median(times);
}

const backends = [['soft', 60_000, 2_000]];
if (probeKvm().steps.find((step) => step.name === 'run 64-bit code')?.works) backends.push(['kvm', 1_000, 500]);
else console.log('SKIPPED: TypeScript devices on kvm, because it runs no guests here; see squib doctor');

console.log('exit to a TypeScript device    ns direct    ns through the event loop');
for (const [backend, direct, threaded] of backends) {
  for (const [name, code] of GUESTS) {
    const here = await cost(backend, code, direct, (vcpu) => vcpu.run());
    const there = await cost(backend, code, threaded, (vcpu) => vcpu.runAsync());
    console.log(`${`${name} on ${backend}`.padEnd(27)} ${here.toFixed(0).padStart(12)} ${there.toFixed(0).padStart(28)}`);
  }
}
