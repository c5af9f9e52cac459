/** Every exit that no device claims reaches TypeScript as a tagged object. */
import { assertNever, type VmExit } from '../ts/index.js';
import { startGuest, TEST_MMIO } from './support/guests.js';
import { codeOf, codeOfAsync, ENTRY, realMode, usableRunners, x86 } from './support/vm.js';

describe.each(x86(usableRunners()))('exits on %s', (runner) => {
  test('HLT: the vCPU stands behind it and stays halted', () => {
    const { vm, vcpu } = realMode(runner, [0xf4, 0x0f, 0x0b]);
    expect(vcpu.run()).toEqual({ kind: 'hlt' });
    expect(vcpu.registers.rip).toBe(BigInt(ENTRY + 1));
    expect(vcpu.run()).toEqual({ kind: 'hlt' });
    expect(vcpu.exitCounts).toEqual({ hlt: 2 });
    vm.close();
  });

  test('a port write carries its bytes', () => {
    // mov eax, 0x11223344; out 0x80, al; out 0x80, ax; out 0x80, eax
    const { vm, vcpu } = realMode(
      runner,
      [0x66, 0xb8, 0x44, 0x33, 0x22, 0x11, 0xe6, 0x80, 0xe7, 0x80, 0x66, 0xe7, 0x80],
    );
    for (const data of [[0x44], [0x44, 0x33], [0x44, 0x33, 0x22, 0x11]]) {
      expect(vcpu.run()).toEqual({ kind: 'pio', port: 0x80, write: true, data: Uint8Array.from(data) });
    }
    vm.close();
  });

  test('a port read is answered by the next entry', () => {
    // in al, 0x60; hlt
    const { vm, vcpu } = realMode(runner, [0xe4, 0x60, 0xf4]);
    expect(vcpu.run()).toEqual({ kind: 'pio', port: 0x60, write: false, data: new Uint8Array(1) });
    expect(vcpu.run({ kind: 'read', data: Uint8Array.of(0x5a) }).kind).toBe('hlt');
    expect(vcpu.registers.rax & 0xffn).toBe(0x5an);
    vm.close();
  });

  test('an unanswered read gives all ones', () => {
    const { vm, vcpu } = realMode(runner, [0xe4, 0x60, 0xf4]);
    vcpu.run();
    expect(vcpu.run().kind).toBe('hlt');
    expect(vcpu.registers.rax & 0xffn).toBe(0xffn);
    vm.close();
  });

  test('an answer of the wrong length is refused and can be given again', () => {
    const { vm, vcpu } = realMode(runner, [0xe4, 0x60, 0xf4]);
    vcpu.run();
    expect(codeOf(() => vcpu.run({ kind: 'read', data: Uint8Array.of(1, 2) }))).toBe('ERR_BAD_ENTRY');
    expect(codeOf(() => vcpu.run({ kind: 'read', data: new Uint8Array(65) }))).toBe('ERR_BAD_ENTRY');
    expect(codeOf(() => vcpu.run({ kind: 'hypercall', value: -1n }))).toBe('ERR_BAD_ENTRY');
    expect(vcpu.run({ kind: 'read', data: Uint8Array.of(7) }).kind).toBe('hlt');
    expect(vcpu.registers.rax & 0xffn).toBe(7n);
    vm.close();
  });

  test('complete finishes a half-done access and runs nothing further', () => {
    const { vm, vcpu } = realMode(runner, [0xe4, 0x60, 0xf4]);
    vcpu.run();
    expect(vcpu.run({ kind: 'complete', data: Uint8Array.of(9) })).toEqual({ kind: 'completed' });
    expect(vcpu.registers.rax & 0xffn).toBe(9n);
    expect(vcpu.registers.rip).toBe(BigInt(ENTRY + 2));
    vm.close();
  });

  test('MMIO behind the end of RAM', () => {
    // mov ds, 0x2000 >> via ax; mov word [0], 0xbeef; mov al, [2]; hlt
    const code = [0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xc7, 0x06, 0, 0, 0xef, 0xbe, 0xa0, 2, 0, 0xf4];
    const { vm, vcpu } = realMode(runner, code);
    expect(vcpu.run()).toEqual({
      kind: 'mmio',
      addr: 0x2_0000n,
      write: true,
      data: Uint8Array.of(0xef, 0xbe),
    });
    expect(vcpu.run()).toEqual({ kind: 'mmio', addr: 0x2_0002n, write: false, data: Uint8Array.of(0) });
    expect(vcpu.run({ kind: 'read', data: Uint8Array.of(0x77) }).kind).toBe('hlt');
    expect(vcpu.registers.rax & 0xffn).toBe(0x77n);
    vm.close();
  });

  test('an exception that nothing can deliver is a triple fault', () => {
    const { vm, vcpu } = startGuest(runner, 'triple-fault');
    expect(vcpu.run()).toEqual({ kind: 'tripleFault' });
    vm.close();
  });

  test('an MMIO access of 8 bytes, in 64-bit mode', () => {
    const { vm, vcpu } = startGuest(runner, 'mmio');
    const exits = [1, 2, 4, 8].map(() => vcpu.run());
    expect(exits[3]).toEqual({
      kind: 'mmio',
      addr: BigInt(TEST_MMIO + 8),
      write: true,
      data: Uint8Array.of(0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff),
    });
    vm.close();
  });

  test('a cancel before the run counts for it, once', () => {
    const { vm, vcpu } = realMode(runner, [0xf4]);
    vcpu.cancel();
    vcpu.cancel();
    expect(vcpu.run()).toEqual({ kind: 'cancelled' });
    expect(vcpu.run()).toEqual({ kind: 'hlt' });
    vm.close();
  });

  test('a cancel ends an endless loop on a thread of its own', async () => {
    const { vm, vcpu } = startGuest(runner, 'spin');
    const run = vcpu.runAsync();
    expect(codeOf(() => vcpu.run())).toBe('ERR_VCPU_BUSY');
    expect(await codeOfAsync(vcpu.runAsync())).toBe('ERR_VCPU_BUSY');
    expect(codeOf(() => vcpu.registers)).toBe('ERR_VCPU_BUSY');
    setTimeout(() => vcpu.cancel(), 20);
    expect(await run).toEqual({ kind: 'cancelled' });
    expect(vcpu.registers.rip).toBeGreaterThan(0n);
    vm.close();
  });

  test('a VM that is closed while its run begins ends it as closed, whichever thread is first', async () => {
    for (let round = 0; round < 50; round++) {
      const { vm, vcpu } = realMode(runner, [0xeb, 0xfe]);
      const run = codeOfAsync(vcpu.runAsync());
      vm.close();
      expect(await run).toBe('ERR_CLOSED');
    }
  });

  test('an AbortSignal ends a run with its reason as the cause', async () => {
    const { vm, vcpu } = startGuest(runner, 'spin');
    const controller = new AbortController();
    const { signal } = controller;
    setTimeout(() => controller.abort('enough'), 20);
    await expect(vcpu.runAsync({ signal })).rejects.toMatchObject({ code: 'ERR_ABORTED', cause: 'enough' });
    expect(await codeOfAsync(vcpu.runAsync({ signal }))).toBe('ERR_ABORTED');
    vm.close();
  });

  test('the registers are what the guest left', () => {
    // mov eax, 0x12345678; mov cx, 0xbeef; hlt
    const { vm, vcpu } = realMode(runner, [0x66, 0xb8, 0x78, 0x56, 0x34, 0x12, 0xb9, 0xef, 0xbe, 0xf4]);
    vcpu.run();
    expect(vcpu.registers).toMatchObject({ rax: 0x1234_5678n, rip: BigInt(ENTRY + 10) });
    expect(vcpu.registers.rcx & 0xffffn).toBe(0xbeefn);
    expect(vcpu.systemRegisters.cr0 & 1n).toBe(0n);
    expect(vcpu.xsave.length).toBeGreaterThanOrEqual(576);
    expect(vcpu.msrIndices).toContain(0x10);
    vm.close();
  });
});

test('a switch over all kinds needs no default, and assertNever says what came', () => {
  expect(() => assertNever({ kind: 'new', addr: 5n } as never)).toThrow('{"kind":"new","addr":"5n"}');
  // Compiles only as long as every kind is listed; package.test.ts compiles one that forgets some.
  const label = (exit: VmExit): string => {
    switch (exit.kind) {
      case 'mmio':
      case 'pio':
      case 'hypercall':
        return 'access';
      case 'wfi':
      case 'wfe':
      case 'hlt':
        return 'idle';
      case 'reset':
      case 'shutdown':
      case 'tripleFault':
      case 'systemEvent':
        return 'end';
      case 'debug':
      case 'cancelled':
      case 'completed':
      case 'budgetSpent':
      case 'interruptWindow':
        return 'asked for';
      case 'msrRead':
      case 'msrWrite':
      case 'eoi':
        return 'platform';
      case 'internalError':
      case 'memoryFault':
      case 'dirtyRingFull':
      case 'failedEntry':
      case 'unsupported':
      case 'unknown':
        return 'trouble';
      default:
        return assertNever(exit);
    }
  };
  expect(label({ kind: 'hlt' })).toBe('idle');
});
