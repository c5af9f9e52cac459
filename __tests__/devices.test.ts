/** Devices in TypeScript: the same code and the same outcomes on this thread and on one of the vCPU's own. */
import {
  backendCapabilities,
  type Device,
  DeviceError,
  type DeviceRange,
  type Vcpu,
  type VmEntry,
  type VmExit,
} from '../ts/index.js';
import { dialectOf, start } from './support/dialect.js';
import { RESULTS, startGuest, TEST_MMIO, TEST_PORT } from './support/guests.js';
import { codeOf, codeOfAsync, createVm, usableRunners, x86 } from './support/vm.js';

type Run = (vcpu: Vcpu, entry?: VmEntry) => Promise<VmExit>;
const MODES: [string, Run][] = [
  ['directly', async (vcpu, entry) => vcpu.run(entry)],
  ['asynchronously', (vcpu, entry) => vcpu.runAsync({ entry })],
];
const RUNNERS = usableRunners();
const X86 = x86(RUNNERS);
const inEachMode = <R>(runners: R[]) =>
  runners.flatMap((runner) => MODES.map(([mode, run]) => ({ runner, mode, run })));

describe.each(inEachMode(X86))('x86 on $runner, called $mode', ({ runner, run }) => {
  test('a device sees offsets and widths, and its answers reach the guest', async () => {
    const { vm, vcpu } = startGuest(runner, 'port-io');
    const seen: unknown[] = [];
    const answers: Record<number, number | bigint> = { 1: 0x5a, 2: 0xabcdn, 4: 0xffff_fffe };
    vm.map(
      { port: TEST_PORT - 1, length: 5 },
      {
        read: (offset, width) => {
          seen.push(['read', offset, width]);
          return answers[width] ?? 0;
        },
        write: (offset, width, value) => void seen.push(['write', offset, width, value]),
      },
    );
    expect(await run(vcpu)).toEqual({ kind: 'hlt' });
    expect(seen).toEqual([
      ['write', 1, 1, 0x11],
      ['write', 1, 2, 0x3322],
      ['write', 1, 4, 0x7766_5544],
      ['read', 1, 1],
      ['read', 1, 2],
      ['read', 1, 4],
    ]);
    expect(vm.memory.read(RESULTS, 8)).toEqual(Uint8Array.of(0x5a, 0, 0xcd, 0xab, 0xfe, 0xff, 0xff, 0xff));
    vm.close();
  });

  test('MMIO of 8 bytes comes and goes as a bigint', async () => {
    const { vm, vcpu } = startGuest(runner, 'mmio');
    const writes: unknown[] = [];
    vm.map(
      { address: BigInt(TEST_MMIO), length: 0x1000 },
      {
        read: (offset, width) => (width === 8 ? 0x0123_4567_89ab_cdefn : offset),
        write: (offset, width, value) => void writes.push([offset, width, value]),
      },
    );
    expect(await run(vcpu)).toEqual({ kind: 'hlt' });
    expect(writes).toEqual([
      [0, 1, 0x11],
      [2, 2, 0x3322],
      [4, 4, 0x7766_5544],
      [8, 8, 0xffee_ddcc_bbaa_9988n],
    ]);
    expect(vm.memory.view(RESULTS, 16).getBigUint64(8)).toBe(0x0123_4567_89ab_cdefn);
    expect(vm.memory.read(RESULTS, 8)).toEqual(Uint8Array.of(0x10, 0, 0x12, 0, 0x14, 0, 0, 0));
    vm.close();
  });
});

describe.each(inEachMode(RUNNERS))('on $runner, called $mode', ({ runner, run }) => {
  const {
    device: range,
    bytes,
    readThenWrite,
    readSecond,
    stopped,
    unclaimed,
    enter,
    answer,
  } = dialectOf(runner);

  test('a device without read and write is an empty bus', async () => {
    const { vm, vcpu } = start(runner, readThenWrite);
    vm.map(range, {});
    expect(await run(vcpu)).toEqual(stopped);
    expect(answer(vcpu)).toBe(0xffn);
    vm.close();
  });

  test('a device that throws ends the run with its error as the cause; the guest can go on', async () => {
    const { vm, vcpu } = start(runner, readThenWrite);
    const cause = new RangeError('no such register');
    const written: unknown[] = [];
    vm.map(range, {
      name: 'sensor',
      read: () => {
        throw cause;
      },
      write: (_offset, _width, value) => void written.push(value),
    });
    const failure = run(vcpu);
    await expect(failure).rejects.toBeInstanceOf(DeviceError);
    await expect(failure).rejects.toMatchObject({
      code: 'ERR_DEVICE_FAILED',
      device: 'sensor',
      offset: 0,
      width: 1,
      write: false,
      cause,
    });
    expect(await run(vcpu)).toEqual(stopped);
    expect(written).toEqual([0xff]);
    vm.close();
  });

  test('a write that throws counts as done', async () => {
    const { vm, vcpu } = start(runner, readThenWrite);
    let writes = 0;
    vm.map(range, {
      read: () => 1,
      write: () => {
        writes += 1;
        throw 'text';
      },
    });
    await expect(run(vcpu)).rejects.toMatchObject({ code: 'ERR_DEVICE_FAILED', write: true, cause: 'text' });
    expect(await run(vcpu)).toEqual(stopped);
    expect(writes).toBe(1);
    vm.close();
  });

  const nonsense: [string, unknown, string][] = [
    ['undefined', undefined, 'instead of a whole number'],
    ['null', null, 'instead of a whole number'],
    ['NaN', Number.NaN, 'instead of a whole number'],
    ['Infinity', Number.POSITIVE_INFINITY, 'instead of a whole number'],
    ['a fraction', 1.5, 'instead of a whole number'],
    ['text', '42', 'instead of a whole number'],
    ['an object', {}, 'instead of a whole number'],
    ['a negative number', -1, 'does not fit'],
    ['too large a number', 256, 'does not fit'],
    ['too large a bigint', 256n, 'does not fit'],
    ['a number beyond 64 bits', 1n << 64n, 'does not fit'],
    ['a promise', Promise.resolve(1), 'promise'],
    ['a promise that rejects', Promise.reject(new Error('late')), 'promise'],
  ];
  for (const [, value] of nonsense) Promise.resolve(value).catch(() => {});
  test.each(nonsense)('a device that answers %s is ERR_DEVICE_FAILED', async (_name, value, why) => {
    const { vm, vcpu } = start(runner, readThenWrite);
    vm.map(range, { read: () => value as number });
    await expect(run(vcpu)).rejects.toMatchObject({
      code: 'ERR_DEVICE_FAILED',
      message: expect.stringContaining(why),
    });
    expect(await run(vcpu)).toEqual(stopped);
    expect(answer(vcpu)).toBe(0xffn);
    vm.close();
  });

  test('a write that gives a promise is ERR_DEVICE_FAILED, and its rejection ends nothing', async () => {
    const { vm, vcpu } = start(runner, readThenWrite);
    vm.map(range, {
      read: () => 1,
      write: async () => {
        throw new Error('late');
      },
    });
    expect(await codeOfAsync(run(vcpu))).toBe('ERR_DEVICE_FAILED');
    vm.close();
  });

  test('a slow device makes the guest wait, and nothing is lost', async () => {
    const { vm, vcpu } = start(runner, readThenWrite);
    vm.map(range, {
      read: () => {
        const end = performance.now() + 30;
        while (performance.now() < end);
        return 7;
      },
    });
    expect(await run(vcpu)).toEqual(stopped);
    expect(answer(vcpu)).toBe(7n);
    vm.close();
  });

  test('a device that uses its own vCPU is told that it is busy; memory and cancel are free', async () => {
    const { vm, vcpu } = start(runner, readThenWrite);
    const codes: unknown[] = [];
    vm.map(range, {
      read: () => {
        codes.push(codeOf(() => vcpu.run()));
        codes.push(codeOf(() => answer(vcpu)));
        expect(codeOf(() => [vcpu.instructions, vcpu.exitCounts])).toBeUndefined();
        vm.memory.write(0x2000, Uint8Array.of(1));
        codes.push(vm.memory.read(0x2000, 1)[0]);
        vcpu.cancel();
        return 3;
      },
    });
    expect(await run(vcpu)).toEqual({ kind: 'cancelled' });
    expect(await run(vcpu)).toEqual(stopped);
    expect(codes).toEqual(['ERR_VCPU_BUSY', 'ERR_VCPU_BUSY', 1]);
    expect(answer(vcpu)).toBe(3n);
    vm.close();
  });

  test('a device may run another vCPU, of its VM or of another', async () => {
    const { vm, vcpu } = start(runner, readThenWrite);
    const several = backendCapabilities(runner === 'wasm' ? 'soft' : runner).maxVcpus > 1;
    const second = several ? vm : createVm(runner, { memory: '64K' });
    second.memory.write(0x5000, readSecond);
    if (!several) expect(codeOf(() => vm.createVcpu(1))).toBe('ERR_VCPU_COUNT');
    const other = enter(second, several ? 1 : 0, 0x5000);
    const exits: VmExit[] = [];
    const device: Device = {
      read: (offset) => {
        if (offset === 1) return 0x22;
        exits.push(other.run());
        return 0x11;
      },
    };
    vm.map(range, device);
    if (second !== vm) second.map(range, device);
    expect(await run(vcpu)).toEqual(stopped);
    expect(exits).toEqual([stopped]);
    expect([answer(vcpu), answer(other)]).toEqual([0x11n, 0x22n]);
    vm.close();
    second.close();
  });

  test('a device that takes itself away still answers; later accesses are unclaimed', async () => {
    const { vm, vcpu } = start(runner, readThenWrite);
    const mapping = vm.map(range, {
      read: () => {
        mapping.unmap();
        mapping.unmap();
        return 9;
      },
    });
    expect(await run(vcpu)).toEqual(unclaimed(9));
    vm.close();
  });

  test('a device may map another', async () => {
    const { vm, vcpu } = start(runner, readThenWrite);
    const written: unknown[] = [];
    vm.map(bytes[0], {
      read: () => {
        vm.map(bytes[1], { write: (_offset, _width, value) => void written.push(value) });
        return 8;
      },
    });
    expect(await run(vcpu)).toEqual(stopped);
    expect(written).toEqual([8]);
    vm.close();
  });

  test('a device that closes its VM ends the run with ERR_CLOSED', async () => {
    const { vm, vcpu } = start(runner, readThenWrite);
    vm.map(range, {
      read: () => {
        vm.close();
        return 1;
      },
    });
    expect(await codeOfAsync(run(vcpu))).toBe('ERR_CLOSED');
    expect(await codeOfAsync(run(vcpu))).toBe('ERR_CLOSED');
    expect(codeOf(() => answer(vcpu))).toBe('ERR_CLOSED');
    expect(codeOf(() => vcpu.instructions)).toBe('ERR_CLOSED');
    expect(codeOf(() => vcpu.exitCounts)).toBe('ERR_CLOSED');
    vcpu.cancel();
    expect(codeOf(() => vm.createVcpu(1))).toBe('ERR_CLOSED');
    expect(codeOf(() => vm.map({ port: 1, length: 1 }, {}))).toBe('ERR_CLOSED');
  });
});

test.each(RUNNERS)('the event loop stays free during runAsync on %s', async (runner) => {
  const { vm, vcpu } = start(runner, dialectOf(runner).spin);
  const run = vcpu.runAsync();
  let ticks = 0;
  const timer = setInterval(() => {
    ticks += 1;
    if (ticks === 5) vcpu.cancel();
  }, 1);
  await run;
  clearInterval(timer);
  expect(ticks).toBeGreaterThanOrEqual(5);
  vm.close();
});

describe.each(RUNNERS)('mapping on %s', (runner) => {
  const device: Device = {};

  test.each<[string, DeviceRange]>([
    ['an overlap', { port: 0x13, length: 2 }],
    ['nothing', { port: 0x80, length: 0 }],
    ['more than there are ports', { port: 0xffff, length: 2 }],
    ['a port beyond all', { port: 0x1_0000, length: 1 }],
    ['RAM', { address: 0x1000, length: 8 }],
    ['RAM in part', { address: 0xffff, length: 2 }],
  ])('%s is ERR_DEVICE_OVERLAP', (_name, range) => {
    using vm = createVm(runner, { memory: '64K' });
    vm.map({ port: 0x10, length: 4 }, device);
    expect(codeOf(() => vm.map(range, device))).toBe('ERR_DEVICE_OVERLAP');
  });

  test.each<[string, DeviceRange]>([
    ['a negative port', { port: -1, length: 1 }],
    ['a fraction', { port: 1.5, length: 1 }],
    ['a wild address', { address: 1n << 63n, length: 1 }],
    ['a wild length', { address: 0xd000_0000, length: Number.POSITIVE_INFINITY }],
  ])('%s is ERR_INVALID_ARGUMENT', (_name, range) => {
    using vm = createVm(runner, { memory: '64K' });
    expect(codeOf(() => vm.map(range, device))).toBe('ERR_INVALID_ARGUMENT');
  });

  test('what was taken away can be mapped again', () => {
    using vm = createVm(runner, { memory: '64K' });
    const first = vm.map({ port: 0x10, length: 4 }, device);
    first.unmap();
    const second = vm.map({ port: 0x12, length: 4 }, device);
    first.unmap();
    expect(codeOf(() => vm.map({ port: 0x12, length: 1 }, device))).toBe('ERR_DEVICE_OVERLAP');
    second.unmap();
  });
});
