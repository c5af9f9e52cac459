/** Doorbells in TypeScript: the same rings, whoever takes note of them. */
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type DoorbellRegister, Machine, type Vcpu, type VmExit } from '../ts/index.js';
import { multiboot, POWER_OFF, startGuest, TEST_MMIO, TEST_PORT } from './support/guests.js';
import { codeOf, createVm, type Runner, realMode, usableBackends, usableRunners } from './support/vm.js';

type Run = (vcpu: Vcpu) => Promise<VmExit>;
const MODES: [string, Run][] = [
  ['directly', async (vcpu) => vcpu.run()],
  ['asynchronously', (vcpu) => vcpu.runAsync()],
];
const RUNNERS = usableRunners();
const CASES = RUNNERS.flatMap((runner) => MODES.map(([mode, run]) => ({ runner, mode, run })));

const PORT = 0x510;
const AT: DoorbellRegister = { port: PORT, length: 1 };

/** mov cx, count; mov dx, 0x510; out dx, al; loop back; hlt */
const ring = (count: number) => [0xb9, count & 0xff, count >> 8, 0xba, 0x10, 0x05, 0xee, 0xe2, 0xfd, 0xf4];

/** The same twice, with out 0x80, al between: a halted vCPU would stay halted. */
const TWICE = [...ring(1).slice(0, -1), 0xe6, 0x80, ...ring(1)];

/** Counts rings, and the calls that told of them. */
class Heard {
  rings = 0;
  calls = 0;

  readonly hear = (rings: number): void => {
    this.rings += rings;
    this.calls += 1;
  };

  /** Waits until there were as many, and a little longer for one too many. */
  async expect(rings: number): Promise<void> {
    const patience = performance.now() + 10_000;
    while (this.rings < rings && performance.now() < patience) await sleep(1);
    await sleep(5);
    expect(this.rings).toBe(rings);
  }
}

describe.each(CASES)('on $runner, run $mode', ({ runner, run }) => {
  test('every ring is heard, and many at once', async () => {
    const { vm, vcpu } = realMode(runner, ring(1000));
    const heard = new Heard();
    vm.mapDoorbell(AT, heard.hear);
    expect(await run(vcpu)).toEqual({ kind: 'hlt' });
    await heard.expect(1000);
    expect(heard.calls).toBeLessThanOrEqual(1000);
    vm.close();
  });

  test('writes of its width and value ring; a device below gets all else', async () => {
    const { vm, vcpu } = startGuest(runner, 'port-io');
    const seen: unknown[] = [];
    vm.map({ port: TEST_PORT, length: 4 }, { read: () => 0, write: (...write) => void seen.push(write) });
    const [other, any, value] = [new Heard(), new Heard(), new Heard()];
    vm.mapDoorbell({ port: TEST_PORT, length: 1, value: 0x12 }, other.hear);
    vm.mapDoorbell({ port: TEST_PORT, length: 2 }, any.hear);
    vm.mapDoorbell({ port: TEST_PORT, length: 4, value: 0x7766_5544n }, value.hear);
    expect(await run(vcpu)).toEqual({ kind: 'hlt' });
    expect(seen).toEqual([[0, 1, 0x11]]);
    await Promise.all([any.expect(1), value.expect(1), other.expect(0)]);
    vm.close();
  });

  test('memory has doorbells of eight bytes', async () => {
    const { vm, vcpu } = startGuest(runner, 'mmio');
    const [heard, device] = [new Heard(), { read: () => 0 }];
    vm.map({ address: TEST_MMIO, length: 0x1000 }, device);
    vm.mapDoorbell({ address: TEST_MMIO + 8, length: 8, value: 0xffee_ddcc_bbaa_9988n }, heard.hear);
    expect(await run(vcpu)).toEqual({ kind: 'hlt' });
    await heard.expect(1);
    vm.close();
  });

  test('one that is unmapped is not heard, and its writes are unclaimed', async () => {
    const { vm, vcpu } = realMode(runner, TWICE);
    const heard = new Heard();
    const doorbell = vm.mapDoorbell(AT, heard.hear);
    expect(await run(vcpu)).toMatchObject({ kind: 'pio', port: 0x80 });
    await heard.expect(1);
    doorbell.unmap();
    doorbell.unmap();
    expect(await run(vcpu)).toMatchObject({ kind: 'pio', port: PORT, write: true });
    await heard.expect(1);
    vm.close();
  });

  test('a doorbell may unmap itself, map another, and close its VM', async () => {
    const { vm, vcpu } = realMode(runner, TWICE);
    const heard = new Heard();
    const first = vm.mapDoorbell(AT, (rings) => {
      first.unmap();
      vm.mapDoorbell(AT, (more) => {
        vm.close();
        heard.hear(more);
      });
      heard.hear(rings);
    });
    await run(vcpu);
    await heard.expect(1);
    // It may still be on its way when the doorbell closes the VM.
    await run(vcpu).catch((error) => expect(error).toMatchObject({ code: 'ERR_CLOSED' }));
    await heard.expect(2);
    expect(vm.closed).toBe(true);
  });
});

describe.each(RUNNERS)('on %s', (runner) => {
  test('nobody hears while a direct run holds the event loop, nor after the VM is closed', async () => {
    const { vm, vcpu } = realMode(runner, ring(5));
    const heard = new Heard();
    vm.mapDoorbell(AT, heard.hear);
    vcpu.run();
    expect(heard.rings).toBe(0);
    vm.close();
    await heard.expect(0);
  });

  test('a guest does not wait for who hears it', async () => {
    const { vm, vcpu } = realMode(runner, ring(2));
    const order: string[] = [];
    vm.mapDoorbell(AT, () => order.push('heard'));
    const ended = vcpu.runAsync().then(() => order.push('ended'));
    await ended;
    while (!order.includes('heard')) await sleep(1);
    expect(order.filter((what) => what === 'ended')).toHaveLength(1);
    vm.close();
  });

  test('what can be no doorbell is refused', () => {
    const vm = createVm(runner, { memory: '64K' });
    const code = (register: unknown, hear: unknown = () => {}) =>
      codeOf(() => vm.mapDoorbell(register as DoorbellRegister, hear as () => void).unmap());
    const held = vm.mapDoorbell({ port: 0x10, length: 2, value: 1 }, () => {});
    for (const [register, expected] of [
      [{ port: 0x10, length: 2 }, 'ERR_DEVICE_OVERLAP'],
      [{ port: 0x10, length: 2, value: 1n }, 'ERR_DEVICE_OVERLAP'],
      [{ port: 0x10, length: 2, value: 2 }, undefined],
      [{ address: 0x1000, length: 4 }, 'ERR_DEVICE_OVERLAP'],
      [{ address: 0x1_0000, length: 8 }, undefined],
      [{ address: 2 ** 52 + 8, length: 8, value: 2n ** 64n - 1n }, undefined],
      ...[0, 3, 8, 16, 257, 2 ** 32 - 1, 2 ** 32, -1, 1.5, Number.NaN, '1', undefined, null].map(
        (length) => [{ port: 0x20, length }, 'ERR_INVALID_ARGUMENT'] as const,
      ),
      [{ port: 0x21, length: 2 }, 'ERR_INVALID_ARGUMENT'],
      [{ port: 0x1_0000, length: 1 }, 'ERR_INVALID_ARGUMENT'],
      [{ port: 0x20, length: 1, value: 256 }, 'ERR_INVALID_ARGUMENT'],
      [{ port: 0x20, length: 1, value: -1 }, 'ERR_INVALID_ARGUMENT'],
      [{ port: 0x20, length: 1, value: 2n ** 64n }, 'ERR_INVALID_ARGUMENT'],
      [{ length: 1 }, 'ERR_INVALID_ARGUMENT'],
      [null, 'ERR_INVALID_ARGUMENT'],
    ] as const) {
      expect([register, code(register)]).toEqual([register, expected]);
    }
    expect(code({ port: 0x20, length: 1 }, null)).toBe('ERR_INVALID_ARGUMENT');
    held.unmap();
    expect(code({ port: 0x10, length: 2 })).toBeUndefined();
    vm.close();
    held.unmap();
    expect(code({ port: 0x10, length: 2 })).toBe('ERR_CLOSED');
  });

  test('200 VMs with doorbells leave no descriptor and no thread', async () => {
    if (process.platform !== 'linux') return console.warn('SKIPPED: counts, because there is no /proc');
    const counts = () => ['fd', 'task'].map((folder) => readdirSync(`/proc/self/${folder}`).length);
    const vms = (count: number) => {
      for (let n = 0; n < count; n += 1) {
        const { vm, vcpu } = realMode(runner, ring(3));
        for (let port = 0; port < 4; port += 1) vm.mapDoorbell({ port: PORT + port, length: 1 }, () => {});
        vcpu.run();
        vm.close();
      }
    };
    vms(2);
    await sleep(50);
    const before = counts();
    vms(200);
    const patience = performance.now() + 10_000;
    while (counts().some((n, i) => n > (before[i] ?? 0)) && performance.now() < patience) await sleep(20);
    const after = counts();
    expect(after.map((n, i) => n <= (before[i] ?? 0))).toEqual([true, true]);
  });

  test('what throws is uncaught, and a doorbell keeps no process alive', () => {
    const program = (hear: string, wait: number) => `
      const [, root, runner] = process.argv;
      const engine = () => {
        const { WasmEngine } = require(root + '/dist/cjs/wasm.js');
        return new WasmEngine(new WebAssembly.Module(require('fs').readFileSync(root + '/dist/squib.wasm')));
      };
      const options = { memory: '64K' };
      const vm = runner === 'wasm' ? engine().createVm(options)
        : require(root + '/dist/cjs/index.js').Vm.create({ ...options, backend: runner });
      vm.memory.write(0x1000, Uint8Array.from(${JSON.stringify(ring(1))}));
      const vcpu = vm.createVcpu(0);
      const { cs, ...system } = vcpu.systemRegisters;
      vcpu.systemRegisters = { ...system, cs: { ...cs, base: 0n, selector: 0 } };
      vcpu.registers = { ...vcpu.registers, rip: 0x1000n };
      vm.mapDoorbell({ port: ${PORT}, length: 1 }, () => { ${hear} });
      vcpu.run();
      setTimeout(() => {}, ${wait});`;
    const run = (hear: string, wait: number) => spawn(program(hear, wait), runner);
    const thrown = run("throw new RangeError('nobody is in')", 5000);
    expect(thrown.stderr).toContain('RangeError: nobody is in');
    expect(thrown.status).toBe(1);
    expect(run('', 0)).toMatchObject({ status: 0, stderr: '' });
  });
});

function spawn(program: string, runner: Runner) {
  const args = ['-e', program, join(__dirname, '..'), runner];
  return spawnSync(process.execPath, args, { encoding: 'utf8', timeout: 60_000 });
}

test.each(usableBackends())('a machine on %s counts rings in its statistics', async (backend) => {
  const out = [0x66, 0xba, 0x10, 0x05, 0xee, 0xee, 0xee]; // mov dx, 0x510; out dx, al, thrice
  const kernel = multiboot([...out, ...POWER_OFF]);
  await using machine = await Machine.create({ kernel, memory: '16M', backend });
  const heard = new Heard();
  machine.mapDoorbell({ ...AT, name: 'bell' }, heard.hear);
  expect(() => machine.mapDoorbell({ address: 0xfec0_0000, length: 4 }, () => {})).toThrow('I/O APIC');
  expect(await machine.run()).toMatchObject({ kind: 'powerOff' });
  await heard.expect(3);
  const bell = machine.stats.devices.find(({ name }) => name === 'bell');
  expect(bell).toMatchObject({ base: BigInt(PORT), ports: true, reads: 0, writes: 3 });
});
