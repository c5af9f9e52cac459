/** The WebAssembly build runs the same guests with the same devices, and comes back with the same exits as the addon. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Device, VmEntry, VmExit } from '../ts/index.js';
import { WasmEngine } from '../ts/wasm.js';
import { multiboot, POWER_OFF } from './support/guests.js';
import { codeOf, codeOfAsync, realMode, wasmEngine } from './support/vm.js';

const PORT = 0x510;

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
  const wasm = realMode('wasm', CODE);
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
  const { vm, vcpu } = realMode('wasm', Uint8Array.from([0xec, 0xeb, 0xfd]));
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

test('errors have the codes of the addon', () => {
  expect(codeOf(() => wasmEngine().createVm({ memory: 1 }))).toBe('ERR_MEMORY_SIZE');
  const { vm, vcpu } = realMode('wasm', Uint8Array.of(0xe4, 0x60, 0xf4));
  expect(codeOf(() => vm.createVcpu(0))).toBe('ERR_VCPU_COUNT');
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
  const outer = realMode('wasm', Uint8Array.of(0xe4, 0x60, 0xf4));
  const inner = realMode('wasm', Uint8Array.of(0xe4, 0x61, 0xf4));
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

test('a run in slices keeps to its budget, and is busy in between', async () => {
  const { vm, vcpu } = realMode('wasm', [0xeb, 0xfe]);
  vcpu.setBudget(2_500_000);
  const run = vcpu.runAsync();
  await new Promise((turn) => setTimeout(turn));
  expect(codeOf(() => vcpu.run())).toBe('ERR_VCPU_BUSY');
  expect(codeOf(() => vcpu.registers)).toBe('ERR_VCPU_BUSY');
  expect(await codeOfAsync(vcpu.runAsync())).toBe('ERR_VCPU_BUSY');
  expect(await run).toEqual({ kind: 'budgetSpent' });
  expect(Number(vcpu.instructions)).toBeGreaterThanOrEqual(2_500_000);
  expect(Number(vcpu.instructions)).toBeLessThan(2_600_000);
  expect(vcpu.run()).toEqual({ kind: 'budgetSpent' });
  vm.close();
});

test('a VM that is closed during a run in slices ends it, and its number can be used again', async () => {
  const { vm, vcpu } = realMode('wasm', [0xeb, 0xfe]);
  const run = vcpu.runAsync();
  setTimeout(() => vm.close());
  expect(await codeOfAsync(run)).toBe('ERR_CLOSED');
  const next = realMode('wasm', [0xf4]);
  expect(codeOf(() => vcpu.run())).toBe('ERR_CLOSED');
  expect(next.vcpu.run()).toEqual({ kind: 'hlt' });
  next.vm.close();
});

test('all state of a vCPU is that of the addon, and can be set as there', () => {
  const [here, there] = [realMode('soft', [0xf4]).vcpu, realMode('wasm', [0xf4]).vcpu];
  const parts = (vcpu: typeof here) => ({
    registers: vcpu.registers,
    system: vcpu.systemRegisters,
    debug: vcpu.debugRegisters,
    pending: vcpu.pendingEvents,
    xsave: vcpu.xsave,
    xcr0: vcpu.xcr0,
    msrs: vcpu.msrIndices,
    efer: vcpu.msr(0xc000_0080),
    cpuid: [0, 1, 7, 0x8000_0001].map((leaf) => vcpu.cpuid(leaf)),
    counts: vcpu.exitCounts,
  });
  expect(parts(there)).toEqual(parts(here));
  for (const vcpu of [here, there]) {
    vcpu.registers = { ...vcpu.registers, r9: 0xffff_ffff_ffff_fff0n };
    const { tr, ...system } = vcpu.systemRegisters;
    vcpu.systemRegisters = {
      ...system,
      cr3: 0x3000n,
      tr: { ...tr, base: 0x1234_5678n, limit: 0x67, kind: 0xb, dpl: 3, available: true },
    };
    vcpu.debugRegisters = { ...vcpu.debugRegisters, db: [1n, 2n, 3n, 4n] };
    vcpu.pendingEvents = { ...vcpu.pendingEvents, nmiMasked: true };
    vcpu.xsave = vcpu.xsave.fill(7, 160, 176);
    vcpu.setMsr(0xc000_0082, 0xffff_8000_0000_0000n);
    vcpu.requestInterruptWindow(true);
    vcpu.injectNmi();
  }
  expect(parts(there)).toEqual(parts(here));
  expect(there.msr(0xc000_0082)).toBe(0xffff_8000_0000_0000n);
  expect(there.systemRegisters.tr).toMatchObject({ base: 0x1234_5678n, dpl: 3, available: true });
});

test('wrong state is refused as by the addon', () => {
  const { vm, vcpu } = realMode('wasm', [0xf4]);
  const { registers, systemRegisters } = vcpu;
  const wrong: (() => unknown)[] = [
    () => (vcpu.registers = { ...registers, rip: -1n }),
    () => (vcpu.registers = { ...registers, rip: 5 as never }),
    () => (vcpu.registers = undefined as never),
    () => (vcpu.systemRegisters = { ...systemRegisters, cs: undefined as never }),
    () => (vcpu.systemRegisters = { ...systemRegisters, cs: { ...systemRegisters.cs, long: 1 as never } }),
    () => (vcpu.debugRegisters = { ...vcpu.debugRegisters, db: [] }),
    () => (vcpu.xsave = new Uint8Array(10)),
    () => vcpu.run({ kind: 'frob' } as never),
    () => vcpu.injectInterrupt(256),
    () => vm.setIrqLine(0, 1 as never),
    () => wasmEngine().createVm({ memory: '64K', irqchip: 'none?' as never }),
  ];
  for (const call of wrong) expect(codeOf(call)).toMatch(/^ERR_(INVALID_ARGUMENT|BAD_ENTRY)$/);
  expect(codeOf(() => vcpu.msr(0xdead_beef))).toBe('ERR_REGISTER');
  expect(codeOf(() => vm.setIrqLine(5, true))).toBe('ERR_IRQ_LINE');
  expect(codeOf(() => vm.setDirtyLog(true))).toBe('ERR_UNSUPPORTED');
  expect(vcpu.run()).toEqual({ kind: 'hlt' });
  vm.close();
});

test('boot loads flat binaries and programs with headers', () => {
  const vm = wasmEngine().createVm({ memory: '4M', irqchip: 'full' });
  const vcpu = vm.createVcpu(0);
  vm.boot(Uint8Array.of(0xf4), { address: 0x8000, mode: 'protected32' });
  expect(vcpu.run()).toEqual({ kind: 'hlt' });
  expect(vcpu.systemRegisters.cr0 & 1n).toBe(1n);
  expect(codeOf(() => vm.boot(Uint8Array.of(1, 2, 3)))).toBe('ERR_IMAGE_FORMAT');
  const flat = { address: 0, mode: 'real16' } as const;
  expect(codeOf(() => vm.boot([0xf4] as never, flat))).toBe('ERR_INVALID_ARGUMENT');
  expect(codeOf(() => vm.boot(Uint8Array.of(0xf4), { ...flat, mode: 'ring0' as never }))).toBe(
    'ERR_INVALID_ARGUMENT',
  );
  vm.boot(multiboot(POWER_OFF));
  expect(vcpu.run()).toMatchObject({ kind: 'pio', port: 0x600 });
  vm.close();
});

test('what is not the module is refused by the engine, not by squib', async () => {
  await expect(WasmEngine.load(Uint8Array.of(1, 2, 3))).rejects.toMatchObject({ name: 'CompileError' });
});

test('nothing of node is imported', () => {
  const seen = new Set<string>();
  const visit = (path: string) => {
    if (seen.has(path)) return;
    seen.add(path);
    const text = readFileSync(path, 'utf8');
    for (const [, name = ''] of text.matchAll(
      /^(?:import|export)\s(?:[^;'"]*\sfrom\s)?["']([^"']+)["'];/gm,
    )) {
      expect(name).toMatch(/^\.{1,2}\/.*\.js$/);
      visit(join(path, '..', name));
    }
  };
  const esm = join(__dirname, '../dist/esm');
  visit(join(esm, 'wasm.js'));
  for (const file of readdirSync(join(esm, 'wasm'))) {
    if (file.endsWith('.js')) expect(seen).toContain(join(esm, 'wasm', file));
  }
});
