// What one exit to a device in TypeScript costs: called directly, called from a vCPU's own thread, and left to the caller.
// The same guest loop as `squib-bench exits` has for devices in Rust, so the difference is the way into TypeScript.
import { backendCapabilities, Vm } from '../dist/esm/index.js';

const ENTRY = 0x1000;
const PORT = 0x510;
const EXITS = { soft: 20_000, kvm: 1_000 };
const ROUNDS = 15;

/** in al, dx; dec cx; jnz back; hlt */
const LOOP = Uint8Array.of(0xec, 0x49, 0x75, 0xfc, 0xf4);

function median(values) {
  return values.sort((a, b) => a - b)[values.length >> 1];
}

/** A vCPU about to make `exits` reads of the port, and a way to start over. */
function guest(backend, exits, device) {
  const vm = Vm.create({ backend, memory: '64K' });
  vm.memory.write(ENTRY, LOOP);
  if (device) vm.map({ port: PORT, length: 1 }, device);
  const vcpu = vm.createVcpu(0);
  const { cs, ...system } = vcpu.systemRegisters;
  vcpu.systemRegisters = { ...system, cs: { ...cs, base: 0n, selector: 0 } };
  const restart = () => {
    vcpu.registers = { ...vcpu.registers, rip: BigInt(ENTRY), rcx: BigInt(exits), rdx: BigInt(PORT) };
  };
  return { vm, vcpu, restart };
}

/** Median nanoseconds of an exit. */
async function cost(backend, device, run) {
  const exits = EXITS[backend];
  const times = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const { vm, vcpu, restart } = guest(backend, exits, device);
    restart();
    const start = performance.now();
    await run(vcpu);
    times.push(((performance.now() - start) * 1e6) / exits);
    vm.close();
  }
  return median(times);
}

const device = { read: () => 42 };
const answer = { kind: 'read', data: Uint8Array.of(42) };
const WAYS = [
  ['device called directly', device, (vcpu) => vcpu.run()],
  ['device called from a thread', device, (vcpu) => vcpu.runAsync()],
  [
    'exit left to the caller',
    undefined,
    (vcpu) => {
      for (let exit = vcpu.run(); exit.kind === 'pio'; exit = vcpu.run(answer));
    },
  ],
];

const backends = ['soft'];
try {
  backendCapabilities('kvm');
  backends.push('kvm');
} catch (error) {
  console.log(`SKIPPED: TypeScript devices on kvm, because ${error.message}`);
}
console.log(
  `\n${'exit to TypeScript, port read'.padEnd(30)}${backends.map((b) => `ns on ${b}`.padStart(12)).join('')}`,
);
for (const [name, dev, run] of WAYS) {
  const cells = [];
  for (const backend of backends) cells.push((await cost(backend, dev, run)).toFixed(0).padStart(12));
  console.log(`${name.padEnd(30)}${cells.join('')}`);
}
