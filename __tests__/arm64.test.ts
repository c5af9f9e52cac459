/** aarch64 from TypeScript: exits, registers, interrupt lines and machines on KVM, and what the other architecture is told. */
import {
  type Arm64State,
  backendCapabilities,
  type Device,
  type GicVersion,
  Machine,
  type Outcome,
  systemRegister,
  type Vcpu,
  type VmExit,
} from '../ts/index.js';
import {
  assemble,
  branch,
  branchIfZero,
  HVC,
  image,
  load,
  POWER_OFF,
  SPIN,
  set,
  store,
  WFI,
} from './support/arm64.js';
import { start } from './support/dialect.js';
import {
  architectureOf,
  codeOf,
  codeOfAsync,
  createVm,
  ENTRY,
  text,
  usableRunners,
  x86,
} from './support/vm.js';

const RUNNERS = usableRunners();
const ARM64 = RUNNERS.filter((runner) => architectureOf(runner) === 'arm64');
if (ARM64.length === 0) {
  process.stderr.write('SKIPPED: guests for aarch64, because no backend here runs them\n');
}

/** Where nothing is. */
const DEVICE = 0x0a00_0000;
const VBAR_EL1 = systemRegister(3, 0, 12, 0, 0);
const MPIDR_EL1 = systemRegister(3, 0, 0, 0, 5);

/** The exit of a store to the device. */
function write(data: readonly number[]): VmExit {
  return { kind: 'mmio', addr: BigInt(DEVICE), write: true, data: Uint8Array.from(data) };
}

function bytesOf(value: bigint): number[] {
  return Array.from({ length: 8 }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
}

test('a system register has the number that its MRS has', () => {
  expect(systemRegister(3, 0, 1, 0, 0)).toBe((0xd538_1000 >>> 5) & 0xffff); // mrs x0, sctlr_el1
  expect(systemRegister(3, 7, 15, 15, 7)).toBe(0xffff);
  for (const fields of [
    [4, 0, 0, 0, 0],
    [3, 8, 0, 0, 0],
    [3, 0, 16, 0, 0],
    [3, 0, 0, -1, 0],
    [3, 0, 0, 0, 0.5],
  ] as [number, number, number, number, number][]) {
    expect(codeOf(() => systemRegister(...fields))).toBe('ERR_INVALID_ARGUMENT');
  }
});

test.each(x86(RUNNERS))('an x86 vCPU has no aarch64 registers on %s', (runner) => {
  const vm = createVm(runner, { memory: '64K' });
  const vcpu = vm.createVcpu(0);
  expect(codeOf(() => vcpu.arm64)).toBe('ERR_UNSUPPORTED');
  vm.close();
  expect(codeOf(() => vcpu.arm64)).toBe('ERR_CLOSED');
});

for (const runner of ARM64) {
  const { gic, irqchips, maxVcpus } = backendCapabilities('kvm');
  const at = (vcpu: Vcpu) => (vcpu.arm64.registers.pc - BigInt(ENTRY)) / 4n;

  describe(`aarch64 exits on ${runner}`, () => {
    test('stores carry their bytes, loads are answered by the next entry', () => {
      const value = 0x8877_6655_4433_2211n;
      const code = [...set(0, value), ...set(1, DEVICE)];
      const widths = [1, 2, 4, 8];
      const { vm, vcpu } = start(
        runner,
        assemble(...code, ...widths.flatMap((width) => [store(width, 0, 1), load(width, 2, 1)])),
      );
      for (const width of widths) {
        const data = bytesOf(value).slice(0, width);
        expect(vcpu.run()).toEqual(write(data));
        const read = vcpu.run();
        expect(read).toEqual({ ...write([]), write: false, data: new Uint8Array(width) });
        expect(codeOf(() => vcpu.run({ kind: 'read', data: new Uint8Array(width + 1) }))).toBe(
          'ERR_BAD_ENTRY',
        );
        expect(vcpu.run({ kind: 'complete', data: Uint8Array.from(data) })).toEqual({ kind: 'completed' });
        expect(vcpu.arm64.registers.x[2]).toBe(BigInt.asUintN(8 * width, value));
      }
      expect(vcpu.exitCounts).toEqual({ mmio: 8, completed: 4 });
      vm.close();
    });

    test('a load that nobody answers gives all ones', () => {
      const { vm, vcpu } = start(runner, assemble(...set(1, DEVICE), load(4, 0, 1), store(8, 0, 1)));
      vcpu.run();
      expect(vcpu.run()).toEqual(write([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]));
      vm.close();
    });

    test('a hypercall that KVM does not know is answered here, or "not supported"', () => {
      if (!backendCapabilities('kvm').exits.includes('hypercall')) {
        process.stderr.write('SKIPPED: hypercalls, because this KVM keeps them\n');
        return;
      }
      const code = assemble(
        ...set(0, 0xc600_1234),
        ...set(1, 11),
        ...set(6, 66),
        HVC,
        ...set(1, DEVICE),
        store(8, 0, 1),
      );
      for (const [value, result] of [
        [0x1122_3344_5566_7788n, 0x1122_3344_5566_7788n],
        [undefined, (1n << 64n) - 1n],
      ] as const) {
        const { vm, vcpu } = start(runner, code);
        expect(vcpu.run()).toEqual({
          kind: 'hypercall',
          func: 0xc600_1234n,
          args: [11n, 0n, 0n, 0n, 0n, 66n],
        });
        expect(vcpu.run(value === undefined ? undefined : { kind: 'hypercall', value })).toEqual(
          write(bytesOf(result)),
        );
        vm.close();
      }
    });

    test('PSCI ends the machine', () => {
      const { vm, vcpu } = start(runner, assemble(...POWER_OFF));
      expect(vcpu.run()).toMatchObject({ kind: 'systemEvent', event: 'shutdown' });
      vm.close();
    });

    test('a cancel ends an endless loop, and a wait for an interrupt', async () => {
      for (const word of [SPIN, WFI]) {
        const { vm, vcpu } = start(runner, assemble(word, word));
        const run = vcpu.runAsync();
        expect(codeOf(() => vcpu.arm64)).toBe('ERR_VCPU_BUSY');
        setTimeout(() => vcpu.cancel(), 20);
        expect(await run).toEqual({ kind: 'cancelled' });
        vm.close();
      }
    });

    test('devices see MMIO of each width', () => {
      const { vm, vcpu } = start(
        runner,
        assemble(
          ...[...set(1, DEVICE), ...set(0, 0xffee_ddcc_bbaa_9988n)],
          ...[1, 2, 4, 8].map((width) => store(width, 0, 1, width)),
          ...[load(8, 3, 1, 16), load(2, 4, 1, 18)],
          HVC,
        ),
      );
      const writes: unknown[] = [];
      vm.map(
        { address: DEVICE, length: 0x100 },
        {
          read: (offset, width) => (width === 8 ? 0x0123_4567_89ab_cdefn : offset),
          write: (offset, width, value) => void writes.push([offset, width, value]),
        },
      );
      vcpu.cancel();
      expect(vcpu.run()).toEqual({ kind: 'cancelled' });
      vcpu.run();
      expect(writes).toEqual([
        [1, 1, 0x88],
        [2, 2, 0x9988],
        [4, 4, 0xbbaa_9988],
        [8, 8, 0xffee_ddcc_bbaa_9988n],
      ]);
      expect(vcpu.arm64.registers.x.slice(3, 5)).toEqual([0x0123_4567_89ab_cdefn, 18n]);
      vm.close();
    });

    test('memory that a guest writes is seen here, and in the dirty log', () => {
      const { vm, vcpu } = start(
        runner,
        assemble(...set(0, 0x5a), ...set(1, 0x3000), ...set(2, DEVICE), store(1, 0, 1), store(1, 0, 2)),
      );
      const view = vm.memory.view(0x3000, 1);
      vm.setDirtyLog(true);
      expect(vcpu.run()).toEqual(write([0x5a]));
      expect(view.getUint8(0)).toBe(0x5a);
      expect(vm.takeDirtyPages()).toEqual([0x3000]);
      vm.close();
    });
  });

  describe(`aarch64 registers on ${runner}`, () => {
    const state = (): { arm64: Arm64State; vcpu: Vcpu; close: () => void } => {
      const { vm, vcpu } = start(runner, assemble(SPIN));
      return { arm64: vcpu.arm64, vcpu, close: () => vm.close() };
    };

    test('general registers come back, and nothing is set by what is refused', () => {
      const { arm64, close } = state();
      const registers = {
        x: Array.from({ length: 31 }, (_, n) => 0x0101_0101_0101_0101n * BigInt(n)),
        spEl0: 0x1000n,
        spEl1: (1n << 64n) - 16n,
        pc: 0x4000n,
        pstate: 0x6000_03c5n,
      };
      arm64.registers = registers;
      expect(arm64.registers).toEqual(registers);
      for (const wrong of [
        { x: registers.x.slice(1) },
        { x: [...registers.x.slice(1), -1n] },
        { pc: 1n << 64n },
        { pc: 5 as never },
        { pstate: 0x3cdn }, // EL3
      ]) {
        expect(codeOf(() => (arm64.registers = { ...registers, ...wrong }))).toBe('ERR_INVALID_ARGUMENT');
      }
      expect(arm64.registers).toEqual(registers);
      close();
    });

    test('vector registers have 128 bits', () => {
      const { arm64, close } = state();
      const registers = {
        v: Array.from({ length: 32 }, (_, n) => (BigInt(n) << 64n) + BigInt(n)),
        fpsr: 0x0800_0000,
        fpcr: 0x0100_0000,
      };
      registers.v[31] = (1n << 128n) - 1n;
      arm64.vectorRegisters = registers;
      expect(arm64.vectorRegisters).toEqual(registers);
      for (const v of [
        registers.v.slice(1),
        [...registers.v.slice(1), 1n << 128n],
        [...registers.v.slice(1), -1n],
      ]) {
        expect(codeOf(() => (arm64.vectorRegisters = { ...registers, v }))).toBe('ERR_INVALID_ARGUMENT');
      }
      expect(arm64.vectorRegisters).toEqual(registers);
      close();
    });

    test('system registers go by their number', () => {
      const { arm64, close } = state();
      const list = arm64.systemRegisterList;
      expect(list).toEqual([...list].sort((a, b) => a - b));
      expect(list).toContain(VBAR_EL1);
      arm64.setSystemRegister(VBAR_EL1, 0x800);
      expect(arm64.systemRegister(VBAR_EL1)).toBe(0x800n);
      for (const register of list) expect(typeof arm64.systemRegister(register)).toBe('bigint');
      const none = systemRegister(3, 7, 15, 15, 7);
      expect(codeOf(() => arm64.systemRegister(none))).toBe('ERR_REGISTER');
      expect(codeOf(() => arm64.setSystemRegister(none, 0))).toBe('ERR_REGISTER');
      expect(codeOf(() => arm64.systemRegister(0x1_0000))).toBe('ERR_INVALID_ARGUMENT');
      expect(codeOf(() => arm64.setSystemRegister(VBAR_EL1, -1))).toBe('ERR_INVALID_ARGUMENT');
      close();
    });

    test('those of x86 are ERR_UNSUPPORTED, as is what x86 alone has', () => {
      const { vcpu, close } = state();
      for (const use of [
        () => vcpu.registers,
        () => vcpu.systemRegisters,
        () => vcpu.xsave,
        () => vcpu.msr(0x10),
        () => vcpu.cpuid(0),
        () => vcpu.injectInterrupt(32),
        () => vcpu.injectNmi(),
      ]) {
        expect(codeOf(use)).toBe('ERR_UNSUPPORTED');
      }
      close();
    });

    test('all vCPUs but the first are off until they are switched on', () => {
      expect(maxVcpus).toBeGreaterThan(1);
      const { vm, vcpu } = start(runner, assemble(...set(1, DEVICE), store(4, 31, 1)));
      const second = vm.createVcpu(1);
      expect([vcpu.arm64.powerState, second.arm64.powerState]).toEqual(['on', 'off']);
      expect(second.arm64.systemRegister(MPIDR_EL1) & 0xffn).toBe(1n);
      second.arm64.registers = { ...second.arm64.registers, pc: BigInt(ENTRY) };
      second.arm64.powerState = 'on';
      expect(second.run()).toEqual(write([0, 0, 0, 0]));
      second.arm64.powerState = 'off';
      expect(second.arm64.powerState).toBe('off');
      expect(codeOf(() => (second.arm64.powerState = 'asleep' as never))).toBe('ERR_INVALID_ARGUMENT');
      vm.close();
    });
  });

  describe(`aarch64 interrupt lines on ${runner}`, () => {
    test('capabilities tell of the GIC', () => {
      expect(backendCapabilities('kvm')).toMatchObject({ architecture: 'arm64', irqchips: ['none', 'full'] });
      expect(['v2', 'v3']).toContain(gic);
    });

    test('there are 96 of them with the irqchip full, and no messages', () => {
      expect(irqchips).toContain('full');
      using full = createVm(runner, { memory: '64K', irqchip: 'full' });
      full.createVcpu(0);
      full.setIrqLine(0, true);
      full.setIrqLine(95, false);
      expect(codeOf(() => full.setIrqLine(96, true))).toBe('ERR_IRQ_LINE');
      expect(codeOf(() => full.signalMsi(0, 0))).toBe('ERR_IRQ_LINE');
      using none = createVm(runner, { memory: '64K' });
      expect(codeOf(() => none.setIrqLine(0, true))).toBe('ERR_IRQ_LINE');
    });

    test('a line wakes a vCPU that waits', async () => {
      using vm = createVm(runner, { memory: '64K', irqchip: 'full' });
      vm.memory.write(ENTRY, assemble(...wakeUp(gic), WFI, ...set(1, DEVICE), store(1, 31, 1)));
      const vcpu = vm.createVcpu(0);
      vcpu.arm64.registers = { ...vcpu.arm64.registers, pc: BigInt(ENTRY) };
      const run = vcpu.runAsync();
      setTimeout(() => vm.setIrqLine(3, true), 50);
      expect(await run).toEqual(write([0]));
      expect(at(vcpu)).toBeGreaterThan(0n);
    });

    test('RAM where the GIC is, is ERR_MEMORY_OVERLAP', () => {
      expect(codeOf(() => createVm(runner, { memory: '256M', irqchip: 'full' }))).toBe('ERR_MEMORY_OVERLAP');
      createVm(runner, { memory: '128M', irqchip: 'full' }).close();
    });
  });

  describe(`an aarch64 machine on ${runner}`, () => {
    const UART = 0x0900_0000;
    /** Prints what the device has to say, up to a zero, and switches the machine off. */
    const printer = image(
      ...[...set(1, DEVICE), ...set(2, UART)],
      ...[load(1, 0, 1), branchIfZero(0, 3), store(1, 0, 2), branch(-3)],
      ...POWER_OFF,
    );
    const speaker = (text: string): Device => {
      const letters = [...Buffer.from(text)];
      return { name: 'speaker', read: () => letters.shift() ?? 0 };
    };
    const speak = (device: Device, cpus = 1) =>
      Machine.create({
        kernel: printer,
        memory: '16M',
        backend: 'kvm',
        cpus,
        devices: [{ at: { address: DEVICE, length: 1 }, device }],
      });

    test.each([1, 2])('boots an Image with a device in TypeScript and %i vCPUs', async (cpus) => {
      await using machine = await speak(speaker('hello from EL1'), cpus);
      const ended: Outcome[] = [];
      machine.on('ended', (outcome) => ended.push(outcome));
      const outcome = await machine.run();
      expect(outcome).toEqual({ kind: 'powerOff', status: 0 });
      expect(ended).toEqual([outcome]);
      expect(machine.boot.protocol).toBe('arm64');
      expect(await text(machine.console.readable)).toBe('hello from EL1');
      expect(machine.stats.devices.find(({ name }) => name === 'speaker')?.reads).toBe(15);
    });

    test('a device that fails ends the run with its error; the run can go on', async () => {
      const device = speaker('more');
      let broken = true;
      const cause = new Error('broken');
      await using machine = await speak({
        read: () => {
          if (!broken) return device.read?.(0, 1) ?? 0;
          broken = false;
          throw cause;
        },
      });
      await expect(machine.run()).rejects.toMatchObject({ code: 'ERR_DEVICE_FAILED', cause });
      expect((await machine.run()).kind).toBe('powerOff');
    });

    test('an endless loop ends by its signal', async () => {
      await using machine = await Machine.create({ kernel: image(SPIN), memory: '16M', backend: 'kvm' });
      expect(await machine.run({ signal: AbortSignal.timeout(50) })).toEqual({
        kind: 'timedOut',
        status: 124,
      });
    });

    test('kernels for x86 and devices on the board are refused', async () => {
      const base = { kernel: printer, memory: '16M', backend: 'kvm' } as const;
      const device: Device = {};
      for (const [options, code] of [
        [{ kernel: new Uint8Array(5000).fill(0xa5) }, 'ERR_IMAGE_FORMAT'],
        [{ irqchip: 'split' }, 'ERR_UNSUPPORTED'],
        [{ devices: [{ at: { address: UART, length: 1 }, device }] }, 'ERR_DEVICE_OVERLAP'],
        [{ devices: [{ at: { address: 0x4000_0000, length: 1 }, device }] }, 'ERR_DEVICE_OVERLAP'],
      ] as const) {
        expect(await codeOfAsync(Machine.create({ ...base, ...options }))).toBe(code);
      }
    });
  });
}

/** Has the GIC let interrupt line 3 wake the vCPU (IHI 0069, 12.9; IHI 0048, 4.3 and 4.4). */
function wakeUp(gic: GicVersion | undefined): number[] {
  const distributor = 0x0800_0000;
  const write = (address: number, value: number) => [...set(3, address), ...set(4, value), store(4, 4, 3)];
  const system = (register: number, value: number) => [
    ...set(4, value),
    (0xd500_0000 | (register << 5) | 4) >>> 0, // msr
    0xd503_3fdf, // isb
  ];
  const enable = write(distributor + 0x104, 8); // GICD_ISENABLER1
  if (gic === 'v2') {
    const cpu = 0x0801_0000;
    return [
      ...write(distributor + 0x820, 1 << 24), // GICD_ITARGETSR8: to vCPU 0
      ...enable,
      ...write(distributor, 1),
      ...write(cpu + 4, 0xff),
      ...write(cpu, 1),
    ];
  }
  return [
    ...system(systemRegister(3, 0, 12, 12, 5), 7), // ICC_SRE_EL1
    ...write(0x080a_0014, 0), // GICR_WAKER
    ...write(distributor, 0x12),
    ...write(distributor + 0x84, 8), // GICD_IGROUPR1
    ...enable,
    ...system(systemRegister(3, 0, 4, 6, 0), 0xff), // ICC_PMR_EL1
    ...system(systemRegister(3, 0, 12, 12, 7), 1), // ICC_IGRPEN1_EL1
  ];
}
