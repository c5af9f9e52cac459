/** Guest memory from TypeScript: good and bad input. */
import { byteSize } from '../ts/arguments.js';
import { codeOf, createVm, realMode, usableRunners, x86 } from './support/vm.js';

describe.each(usableRunners())('guest memory on %s', (runner) => {
  test('what is written can be read, and reads are copies', () => {
    using vm = createVm(runner, { memory: '64K' });
    vm.memory.write(0xfff0, Uint8Array.of(1, 2, 3));
    const copy = vm.memory.read(0xfff0, 4);
    expect(copy).toEqual(Uint8Array.of(1, 2, 3, 0));
    copy[0] = 9;
    expect(vm.memory.read(0xfff0n, 1)).toEqual(Uint8Array.of(1));
    vm.memory.fill(0xfff0, 0xee, 16);
    expect(vm.memory.read(0xffff, 1)).toEqual(Uint8Array.of(0xee));
    expect(vm.memory.size).toBe(0x1_0000);
  });

  test('a view reads and writes numbers as the guest has them', () => {
    using vm = createVm(runner, { memory: '64K' });
    const view = vm.memory.view(0x100, 32);
    view.setUint32(0, 0x1122_3344);
    expect(vm.memory.read(0x100, 4)).toEqual(Uint8Array.of(0x44, 0x33, 0x22, 0x11));
    expect(view.getUint16(0)).toBe(0x3344);
    expect(view.getUint16(0, false)).toBe(0x4433);
    view.setInt8(4, -2);
    expect([view.getInt8(4), view.getUint8(4)]).toEqual([-2, 254]);
    view.setBigUint64(8, 0xffee_ddcc_bbaa_9988n);
    expect(view.getBigUint64(8)).toBe(0xffee_ddcc_bbaa_9988n);
    expect(view.getBigInt64(8)).toBeLessThan(0n);
    view.setFloat64(16, Math.PI);
    view.setFloat32(24, 0.5, false);
    expect([view.getFloat64(16), view.getFloat32(24, false)]).toEqual([Math.PI, 0.5]);
    view.setInt16(28, -3);
    view.setInt32(0, -4, false);
    expect([view.getInt16(28), view.getInt32(0, false)]).toEqual([-3, -4]);
  });

  const WILD = [
    -1,
    0.5,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    2 ** 60,
    -1n,
    1n << 63n,
    (1n << 64n) - 1n,
    0x1_0000,
    0xffff_ffff,
  ];

  test.each(WILD)('address %p is ERR_MEMORY_RANGE, and nothing is written', (address) => {
    using vm = createVm(runner, { memory: '64K' });
    const { memory } = vm;
    expect(codeOf(() => memory.read(address, 1))).toBe('ERR_MEMORY_RANGE');
    expect(codeOf(() => memory.write(address, Uint8Array.of(1)))).toBe('ERR_MEMORY_RANGE');
    expect(codeOf(() => memory.fill(address, 1, 1))).toBe('ERR_MEMORY_RANGE');
    expect(codeOf(() => memory.view(address, 1))).toBe('ERR_MEMORY_RANGE');
  });

  test('ranges over the end and wild lengths are refused whole', () => {
    using vm = createVm(runner, { memory: '64K' });
    expect(codeOf(() => vm.memory.write(0xfffe, Uint8Array.of(1, 2, 3)))).toBe('ERR_MEMORY_RANGE');
    expect(vm.memory.read(0xfffe, 2)).toEqual(Uint8Array.of(0, 0));
    for (const length of [-1, 1.5, Number.NaN, 2 ** 53, 0x1_0001]) {
      expect(codeOf(() => vm.memory.read(0, length))).toBe('ERR_MEMORY_RANGE');
      expect(codeOf(() => vm.memory.fill(0, 0, length))).toBe('ERR_MEMORY_RANGE');
    }
    const view = vm.memory.view(0xfff8, 8);
    for (const offset of [-1, 5, 0.5, Number.NaN, 2 ** 32]) {
      expect(codeOf(() => view.getUint32(offset))).toBe('ERR_MEMORY_RANGE');
      expect(codeOf(() => view.setUint32(offset, 1))).toBe('ERR_MEMORY_RANGE');
    }
    expect(codeOf(() => vm.memory.fill(0, 256, 1))).toBe('ERR_INVALID_ARGUMENT');
    for (const data of ['text', [1, 2], new Uint16Array(2), new DataView(new ArrayBuffer(4)), undefined]) {
      expect(codeOf(() => vm.memory.write(0, data as never))).toBe('ERR_INVALID_ARGUMENT');
    }
  });

  test.each([0, -4096, 1, 4095, 4097, 2 ** 41, 2 ** 53, Number.NaN, '', '12Q', '-1M', 'M', '0', 1n << 70n])(
    'a memory of %p is ERR_MEMORY_SIZE',
    (memory) => {
      expect(codeOf(() => createVm(runner, { memory }))).toBe('ERR_MEMORY_SIZE');
    },
  );

  test('sizes can be written as people write them', () => {
    expect(['512', '64K', '256M', '2g', '1 GiB', '3MB', 4096, 4096n].map(byteSize)).toEqual([
      512,
      65536,
      256 * 2 ** 20,
      2 ** 31,
      2 ** 30,
      3 * 2 ** 20,
      4096,
      4096,
    ]);
  });

  test('after the VM was closed, memory and its views are ERR_CLOSED', () => {
    const vm = createVm(runner, { memory: '64K' });
    const { memory } = vm;
    const view = memory.view(0, 8);
    vm.close();
    vm.close();
    expect(codeOf(() => memory.read(0, 1))).toBe('ERR_CLOSED');
    expect(codeOf(() => memory.write(0, Uint8Array.of(1)))).toBe('ERR_CLOSED');
    expect(codeOf(() => view.getUint8(0))).toBe('ERR_CLOSED');
    expect(codeOf(() => view.setUint8(0, 1))).toBe('ERR_CLOSED');
  });
});

describe.each(x86(usableRunners()))('guest memory that a guest uses on %s', (runner) => {
  test('a view sees what a guest writes later', () => {
    // mov byte [0x3000], 0x5a; hlt
    const { vm, vcpu } = realMode(runner, [0xc6, 0x06, 0x00, 0x30, 0x5a, 0xf4]);
    const view = vm.memory.view(0x3000, 1);
    expect(view.getUint8(0)).toBe(0);
    vcpu.run();
    expect(view.getUint8(0)).toBe(0x5a);
    vm.close();
  });

  test('code written through a view is executed as written', () => {
    // in al, 0x60; jmp back to it
    const { vm, vcpu } = realMode(runner, [0xe4, 0x60, 0xeb, 0xfc]);
    expect(vcpu.run()).toMatchObject({ kind: 'pio', port: 0x60 });
    expect(vcpu.run()).toMatchObject({ kind: 'pio', port: 0x60 });
    vm.memory.view(0x1000, 4).setUint8(1, 0x61);
    expect(vcpu.run()).toMatchObject({ kind: 'pio', port: 0x61 });
    vm.close();
  });
});
