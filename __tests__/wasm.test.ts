/** The WebAssembly build runs the same guests with the same devices, and comes back with the same exits as the addon. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Device, VmEntry, VmExit } from '../ts/index.js';
import { WasmEngine, type WasmVcpu, type WasmVm } from '../ts/wasm.js';
import { codeOf, ENTRY, realMode } from './support/vm.js';

const PORT = 0x510;

let engine: WasmEngine;

// Built by `npm test` before jest starts.
beforeAll(async () => {
  engine = await WasmEngine.load(readFileSync(join(__dirname, '..', 'dist', 'squib.wasm')));
});

function wasmRealMode(code: Uint8Array): { vm: WasmVm; vcpu: WasmVcpu } {
  const vm = engine.createVm({ memory: '64K' });
  const vcpu = vm.createVcpu();
  vcpu.boot(code, { address: ENTRY, mode: 'real16' });
  return { vm, vcpu };
}

/** Counts up at each read, and notes what is written. */
class Counter implements Device {
  readonly log: string[] = [];
  #next = 0x41;

  read(offset: number, width: number): number {
    this.log.push(`read ${width} at ${offset}`);
    return this.#next++;
  }

  write(offset: number, width: number, value: number | bigint): void {
    this.log.push(`write ${width} at ${offset}: ${value}`);
  }
}

// mov dx, 0x510; in al, dx; out dx, al; inc dx; in ax, dx; out dx, ax
const DEVICE = [0xba, 0x10, 0x05, 0xec, 0xee, 0x42, 0xed, 0xef];
// mov eax, 0x11223344; out 0x80, al; out 0x80, ax; out 0x80, eax; in al, 0x60
const PORTS = [0x66, 0xb8, 0x44, 0x33, 0x22, 0x11, 0xe6, 0x80, 0xe7, 0x80, 0x66, 0xe7, 0x80, 0xe4, 0x60];
// mov bx, 0x2000; mov ds, bx; mov word [0], 0xbeef; mov eax, [2]
const MMIO = [0xbb, 0x00, 0x20, 0x8e, 0xdb, 0xc7, 0x06, 0, 0, 0xef, 0xbe, 0x66, 0xa1, 2, 0];
// vmcall; xor bx, bx; lidt [cs:bx], which is zeros; ud2
const ENDS = [0x0f, 0x01, 0xc1, 0x31, 0xdb, 0x2e, 0x0f, 0x01, 0x1f, 0x0f, 0x0b];
const CODE = Uint8Array.from([...DEVICE, ...PORTS, ...MMIO, ...ENDS]);

/** The answers to what CODE asks, by kind of exit. */
function answer(exit: VmExit): VmEntry {
  if (exit.kind === 'hypercall') return { kind: 'hypercall', value: 77n };
  if ((exit.kind === 'pio' || exit.kind === 'mmio') && !exit.write) {
    return { kind: 'read', data: exit.data.map((_, i) => 0x10 + i) };
  }
  return { kind: 'resume' };
}

/** All exits up to the triple fault at the end. */
function exits(vcpu: { run(entry?: VmEntry): VmExit }): VmExit[] {
  const seen: VmExit[] = [];
  let entry: VmEntry = { kind: 'resume' };
  while (seen.length < 20) {
    const exit = vcpu.run(entry);
    seen.push(exit);
    if (exit.kind === 'tripleFault') break;
    entry = answer(exit);
  }
  return seen;
}

test('a guest with a TypeScript device makes the same exits as with the addon', () => {
  const [here, there] = [new Counter(), new Counter()];
  const native = realMode('soft', CODE);
  native.vm.map({ port: PORT, length: 4 }, here);
  const wasm = wasmRealMode(CODE);
  wasm.vm.map({ port: PORT, length: 4 }, there);

  const seen = exits(wasm.vcpu);
  expect(seen).toEqual(exits(native.vcpu));
  expect(seen.map((exit) => exit.kind)).toEqual([
    ...['pio', 'pio', 'pio', 'pio', 'mmio', 'mmio'],
    ...['hypercall', 'tripleFault'],
  ]);
  expect(there.log).toEqual(['read 1 at 0', 'write 1 at 0: 65', 'read 2 at 1', 'write 2 at 1: 66']);
  expect(there.log).toEqual(here.log);
  expect(wasm.vcpu.registers).toEqual(native.vcpu.registers);
  expect(wasm.vcpu.instructions).toBe(native.vcpu.instructions);
  native.vm.close();
  wasm.vm.close();
});

test('an endless guest runs in slices, and stops when a device says so', () => {
  // again: in al, dx; jmp again
  const { vm, vcpu } = wasmRealMode(Uint8Array.from([0xec, 0xeb, 0xfd]));
  vcpu.registers = { ...vcpu.registers, rdx: BigInt(PORT) };
  let reads = 0;
  vm.map({ port: PORT, length: 1 }, { read: () => ++reads & 0xff });
  vcpu.setBudget(1000);
  expect(vcpu.run()).toEqual({ kind: 'budgetSpent' });
  expect(reads).toBeGreaterThan(100);
  vcpu.setBudget(undefined);
  const before = reads;
  vm.map({ port: PORT + 1, length: 1 }, { read: () => 0 })[Symbol.dispose]();
  vcpu.cancel();
  expect(vcpu.run()).toEqual({ kind: 'cancelled' });
  expect(reads - before).toBeLessThan(100);
  vm.close();
});

test('memory is read and written with the checks of the addon', () => {
  const vm = engine.createVm({ memory: '64K' });
  vm.memory.write(0x100, Uint8Array.of(1, 2, 3));
  expect(vm.memory.read(0x0ff, 5)).toEqual(Uint8Array.of(0, 1, 2, 3, 0));
  vm.memory.view(0x200, 16).setUint32(4, 0xdeadbeef, true);
  expect(vm.memory.read(0x204, 4)).toEqual(Uint8Array.of(0xef, 0xbe, 0xad, 0xde));
  expect(codeOf(() => vm.memory.write(0xffff, Uint8Array.of(1, 2)))).toBe('ERR_MEMORY_RANGE');
  expect(vm.memory.regions).toEqual([{ address: 0, length: 0x1_0000 }]);
  vm.close();
});

test('errors have the codes of the addon', () => {
  expect(codeOf(() => engine.createVm({ memory: 1 }))).toBe('ERR_MEMORY_SIZE');
  const { vm, vcpu } = wasmRealMode(Uint8Array.of(0xe4, 0x60, 0xf4));
  expect(codeOf(() => vm.createVcpu())).toBe('ERR_VCPU_COUNT');
  expect(codeOf(() => vcpu.boot(Uint8Array.of(1, 2, 3)))).toBe('ERR_IMAGE_FORMAT');
  vm.map({ port: 0x60, length: 1 }, { read: () => 0x100 });
  expect(codeOf(() => vm.map({ port: 0x60, length: 1 }, {}))).toBe('ERR_DEVICE_OVERLAP');
  expect(codeOf(() => vcpu.run())).toBe('ERR_DEVICE_FAILED');
  expect(vcpu.run()).toEqual({ kind: 'hlt' });
  expect(codeOf(() => vcpu.run({ kind: 'read', data: new Uint8Array(65) }))).toBe('ERR_BAD_ENTRY');
  vm.close();
  vm.close();
  expect(codeOf(() => vcpu.run())).toBe('ERR_CLOSED');
});

test('a device may close the VM, or run another, while it answers', () => {
  const outer = wasmRealMode(Uint8Array.of(0xe4, 0x60, 0xf4));
  const inner = wasmRealMode(Uint8Array.of(0xe4, 0x61, 0xf4));
  inner.vm.map({ port: 0x61, length: 1 }, { read: () => 7 });
  outer.vm.map(
    { port: 0x60, length: 1 },
    {
      read: () => {
        expect(inner.vcpu.run()).toEqual({ kind: 'hlt' });
        expect(codeOf(() => outer.vcpu.run())).toBe('ERR_VCPU_BUSY');
        outer.vm.close();
        return 1;
      },
    },
  );
  expect(codeOf(() => outer.vcpu.run())).toBe('ERR_CLOSED');
  expect(inner.vcpu.registers.rax & 0xffn).toBe(7n);
  inner.vm.close();
});
