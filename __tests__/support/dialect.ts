/** The same small programs for each architecture, so that tests of devices are the same on all of them. */
import type { BaseVm, DeviceRange, Vcpu, VmExit } from '../../ts/index.js';
import { assemble, load, SPIN, set, store } from './arm64.js';
import { architectureOf, createVm, ENTRY, enterRealMode, type Runner } from './vm.js';

/** How tests speak with a guest. */
export interface Dialect {
  /** A device of two bytes, and each of them. */
  readonly device: DeviceRange;
  readonly bytes: readonly [DeviceRange, DeviceRange];
  /** Reads the first byte, writes it to the second, and stops. */
  readonly readThenWrite: Uint8Array;
  /** Reads the second byte and stops. */
  readonly readSecond: Uint8Array;
  /** Loops for ever. */
  readonly spin: Uint8Array;
  /** The exit of a program that stops. */
  readonly stopped: VmExit;
  /** The exit of a write to the second byte that no device claims. */
  unclaimed(value: number): VmExit;
  /** Makes vCPU `id`, which is about to execute what is at `entry`. */
  enter(vm: BaseVm, id: number, entry: number): Vcpu;
  /** What the last read of a byte gave the guest. */
  answer(vcpu: Vcpu): bigint;
}

const x86: Dialect = {
  device: { port: 0x10, length: 2 },
  bytes: [
    { port: 0x10, length: 1 },
    { port: 0x11, length: 1 },
  ],
  readThenWrite: Uint8Array.of(0xe4, 0x10, 0xe6, 0x11, 0xf4), // in al, 0x10; out 0x11, al; hlt
  readSecond: Uint8Array.of(0xe4, 0x11, 0xf4),
  spin: Uint8Array.of(0xeb, 0xfe),
  stopped: { kind: 'hlt' },
  unclaimed: (value) => ({ kind: 'pio', port: 0x11, write: true, data: Uint8Array.of(value) }),
  enter: (vm, id, entry) => {
    const vcpu = vm.createVcpu(id);
    enterRealMode(vcpu, entry);
    return vcpu;
  },
  answer: (vcpu) => vcpu.registers.rax & 0xffn,
};

const DEVICE = 0x0a00_0000;
/** A write here, where nothing is, says that a program has stopped. */
const STOP = 0x0b00_0000;
const stop = [...set(2, STOP), store(1, 31, 2)];

const arm64: Dialect = {
  device: { address: DEVICE, length: 2 },
  bytes: [
    { address: DEVICE, length: 1 },
    { address: DEVICE + 1, length: 1 },
  ],
  readThenWrite: assemble(...set(1, DEVICE), load(1, 0, 1), store(1, 0, 1, 1), ...stop),
  readSecond: assemble(...set(1, DEVICE), load(1, 0, 1, 1), ...stop),
  spin: assemble(SPIN),
  stopped: { kind: 'mmio', addr: BigInt(STOP), write: true, data: Uint8Array.of(0) },
  unclaimed: (value) => ({
    kind: 'mmio',
    addr: BigInt(DEVICE + 1),
    write: true,
    data: Uint8Array.of(value),
  }),
  enter: (vm, id, entry) => {
    const vcpu = vm.createVcpu(id);
    vcpu.arm64.powerState = 'on';
    vcpu.arm64.registers = { ...vcpu.arm64.registers, pc: BigInt(entry) };
    return vcpu;
  },
  answer: (vcpu) => (vcpu.arm64.registers.x[0] ?? 0n) & 0xffn,
};

/** How to speak with a runner's guests. */
export function dialectOf(runner: Runner): Dialect {
  return architectureOf(runner) === 'arm64' ? arm64 : x86;
}

/** A VM whose vCPU is about to execute `code`. */
export function start(runner: Runner, code: Uint8Array): { vm: BaseVm; vcpu: Vcpu } {
  const vm = createVm(runner, { memory: '64K' });
  vm.memory.write(ENTRY, code);
  return { vm, vcpu: dialectOf(runner).enter(vm, 0, ENTRY) };
}
