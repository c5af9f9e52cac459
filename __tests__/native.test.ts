/** The contract with the addon. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { toSquibError } from '../ts/errors.js';
import { backendCapabilities, doctor, ERROR_CODES, SquibError, Vm } from '../ts/index.js';
import { native, packageRoot, target } from '../ts/native.cjs';
import { codeOf, createVm, realMode, usableBackends, x86 } from './support/vm.js';

const ROOT = join(__dirname, '..');

test('TypeScript knows the error codes of the addon, and one of its own', () => {
  expect([...ERROR_CODES]).toEqual([...native().errorCodes(), 'ERR_ADDON_MISSING']);
});

test('the exit statuses of errors are those of the machine', () => {
  const status = (code: string) => native().errorStatus(code);
  expect(
    ['ERR_IMAGE_FORMAT', 'ERR_BACKEND_UNUSABLE', 'ERR_TIMEOUT', 'ERR_HYPERVISOR', 'nonsense'].map(status),
  ).toEqual([2, 20, 124, 16, 16]);
});

test('an addon is looked for in the clone that it was built in', () => {
  expect(packageRoot()).toBe(ROOT);
  expect(readFileSync(join(ROOT, `squib.${target()}.node`)).subarray(0, 4).length).toBe(4);
});

test('errors of the addon become classes by their code, never by their text', () => {
  const known = toSquibError({ code: 'ERR_CLOSED', message: 'gone' });
  expect(known).toBeInstanceOf(SquibError);
  expect([known.name, known.code, known.message]).toEqual(['SquibError', 'ERR_CLOSED', 'gone']);
  expect(toSquibError({ code: 'InvalidArg', message: 'no' }).code).toBe('ERR_INVALID_ARGUMENT');
  expect(toSquibError({ code: 'BigintExpected', message: 'no' }).code).toBe('ERR_INVALID_ARGUMENT');
  expect(toSquibError(new Error('a panic')).code).toBe('ERR_INTERNAL');
  expect(toSquibError(undefined).code).toBe('ERR_INTERNAL');
  expect(toSquibError(known)).toBe(known);
});

test('wrong arguments are typed errors, whatever their kind', () => {
  const { vm, vcpu } = realMode('soft', [0xf4]);
  const { registers, systemRegisters } = vcpu;
  const wrong: (() => unknown)[] = [
    () => (vcpu.registers = { ...registers, rip: -1n }),
    () => (vcpu.registers = { ...registers, rip: 1n << 64n }),
    () => (vcpu.registers = { ...registers, rip: 5 as never }),
    () => (vcpu.registers = {} as never),
    () => (vcpu.registers = undefined as never),
    () => (vcpu.systemRegisters = { ...systemRegisters, cs: undefined as never }),
    () => (vcpu.systemRegisters = { ...systemRegisters, cs: { ...systemRegisters.cs, dpl: 4 } }),
    () => (vcpu.systemRegisters = { ...systemRegisters, cs: { ...systemRegisters.cs, kind: 16 } }),
    () => (vcpu.systemRegisters = { ...systemRegisters, cs: { ...systemRegisters.cs, selector: 0x1_0000 } }),
    () => (vcpu.systemRegisters = { ...systemRegisters, gdt: { base: 0n, limit: -1 } }),
    () => (vcpu.pendingEvents = { ...vcpu.pendingEvents, interrupt: 256 }),
    () => (vcpu.pendingEvents = { ...vcpu.pendingEvents, exception: { vector: 256 } }),
    () => vcpu.injectInterrupt(256),
    () => (vcpu.debugRegisters = { ...vcpu.debugRegisters, db: [] }),
    () => (vcpu.xsave = new Uint8Array(10)),
    () => vcpu.msr(-1),
    () => vcpu.setMsr(0x10, 1n << 64n),
    () => vcpu.cpuid(2 ** 32),
    () => vcpu.run({ kind: 'frob' } as never),
    () => vcpu.run(5 as never),
    () => vcpu.setBudget(-1),
    () => vm.createVcpu(-1),
    () => vm.createVcpu(1.5),
    () => vm.setIrqLine(0, 1 as never),
    () => vm.map(undefined as never, {}),
    () => vm.map({ port: 1, length: 1 }, 5 as never),
    () => Vm.create(undefined as never),
  ];
  for (const call of wrong) expect(codeOf(call)).toMatch(/^ERR_(INVALID_ARGUMENT|BAD_ENTRY)$/);
  expect(codeOf(() => vm.createVcpu(0))).toBe('ERR_VCPU_COUNT');
  expect(codeOf(() => vm.createVcpu(33))).toBe('ERR_VCPU_COUNT');
  expect(codeOf(() => vm.setIrqLine(5, true))).toBe('ERR_IRQ_LINE');
  expect(codeOf(() => vcpu.msr(0xdead_beef))).toBe('ERR_REGISTER');
  expect(vcpu.run()).toEqual({ kind: 'hlt' });
  vm.close();
});

test('a budget ends a run, and instructions are counted', () => {
  const { vm, vcpu } = realMode('soft', [0xeb, 0xfe]);
  vcpu.setBudget(1000);
  expect(vcpu.run()).toEqual({ kind: 'budgetSpent' });
  expect(Number(vcpu.instructions)).toBeGreaterThanOrEqual(1000);
  expect(Number(vcpu.instructions)).toBeLessThan(2000);
  vm.close();
});

test.each(usableBackends())('a dirty ring on %s, where there is one', (backend) => {
  const create = (dirtyRing: number) => Vm.create({ backend, memory: '64K', dirtyRing });
  for (const no of [-1, 1.5, 2 ** 32]) expect(codeOf(() => create(no))).toBe('ERR_INVALID_ARGUMENT');
  const longest = backendCapabilities(backend).dirtyRing;
  if (longest === undefined) {
    expect(codeOf(() => create(1024))).toBe('ERR_UNSUPPORTED');
    return;
  }
  for (const no of [0, 1000, longest * 2]) expect(codeOf(() => create(no))).toBe('ERR_INVALID_ARGUMENT');
  using vm = create(longest);
  vm.createVcpu(0);
  vm.setDirtyLog(true);
  vm.memory.write(0x3000, Uint8Array.of(1));
  expect(vm.takeDirtyPages()).toEqual([0x3000]);
  expect(vm.takeDirtyPages()).toEqual([]);
});

test('doctor finds what there is', () => {
  const diagnosis = doctor();
  expect(diagnosis).toMatchObject({ target: target(), addon: { works: true }, soft: { works: true } });
  expect(diagnosis.kvm?.steps.map((step) => step.name)).toContain('open /dev/kvm');
});

/** The text of a worker that runs this with `squib` at hand. */
function worker(body: string): Worker {
  const text = `const squib = require(${JSON.stringify(join(ROOT, 'dist/cjs/index.js'))});
    const { parentPort } = require('node:worker_threads');
    const vm = squib.Vm.create({ backend: 'soft', memory: '64K' });
    const vcpu = vm.createVcpu(0);
    const { cs, ...system } = vcpu.systemRegisters;
    vcpu.systemRegisters = { ...system, cs: { ...cs, base: 0n, selector: 0 } };
    vcpu.registers = { ...vcpu.registers, rip: 0x1000n };
    const load = (...code) => vm.memory.write(0x1000, Uint8Array.from(code));
    ${body}`;
  return new Worker(text, { eval: true });
}

describe('a worker that is terminated', () => {
  test.each([
    [
      'while its guest loops on a thread',
      `load(0xeb, 0xfe); vcpu.runAsync(); parentPort.postMessage('running');`,
    ],
    [
      'while its guest rings a doorbell',
      `load(0xe6, 0x10, 0xeb, 0xfc);
       vm.mapDoorbell({ port: 0x10, length: 1 }, () => parentPort.postMessage('rung'));
       vcpu.runAsync();`,
    ],
    [
      'while its guest waits for a device',
      `load(0xe4, 0x10, 0xeb, 0xfc);
       vm.map({ port: 0x10, length: 1 }, { read: () => { parentPort.postMessage('asked'); for (;;); } });
       vcpu.runAsync();`,
    ],
    [
      'while it runs the guest itself',
      `load(0xe4, 0x10, 0xeb, 0xfc);
       vm.map({ port: 0x10, length: 1 }, { read: () => (parentPort.postMessage('asked'), 1) });
       vcpu.run();`,
    ],
  ])('%s takes its guest with it, and nothing else', async (_name, body) => {
    const running = worker(body);
    await new Promise((resolve, reject) => {
      running.once('message', resolve);
      running.once('error', reject);
    });
    expect(typeof (await running.terminate())).toBe('number');
    const { vm, vcpu } = realMode('soft', [0xf4]);
    expect(vcpu.run().kind).toBe('hlt');
    vm.close();
  });
});

/** A program that drops VMs which have run a guest on a thread, and closes none. Exits with 0 when all have gone. */
const DROPS = `
  const { Vm } = require(process.argv[1]);
  const { readdirSync, readFileSync } = require('node:fs');
  const [MIB, PAGES, VMS] = [16, 16 * 256, 30];
  const count = (folder) => readdirSync(folder).length;
  const pages = () => Number(readFileSync('/proc/self/statm', 'utf8').split(' ')[0]);
  const used = () => ({ descriptors: count('/proc/self/fd'), threads: count('/proc/self/task') });
  async function drop() {
    const vm = Vm.create({ backend: process.argv[2], memory: MIB + 'M' });
    vm.memory.write(0x1000, Uint8Array.of(0xe4, 0x10, 0xf4));
    vm.map({ port: 0x10, length: 1 }, { read: () => 7 });
    const vcpu = vm.createVcpu(0);
    const { cs, ...system } = vcpu.systemRegisters;
    vcpu.systemRegisters = { ...system, cs: { ...cs, base: 0n, selector: 0 } };
    vcpu.registers = { ...vcpu.registers, rip: 0x1000n };
    const { kind } = await vcpu.runAsync();
    if (kind !== 'hlt') throw new Error(kind);
  }
  async function collected(isDone) {
    for (let tries = 0; tries < 500; tries += 1) {
      gc();
      await new Promise((resolve) => setTimeout(resolve, 10));
      if (tries > 20 && isDone()) return;
    }
  }
  (async () => {
    await drop();
    await collected(() => true);
    const [before, mapped] = [used(), pages()];
    for (let i = 0; i < VMS; i += 1) await drop();
    const isDone = () => JSON.stringify(used()) === JSON.stringify(before) && pages() - mapped < (VMS * PAGES) / 2;
    await collected(isDone);
    const done = isDone();
    console.log(JSON.stringify({ before, after: used(), pages: pages() - mapped }));
    process.exit(done ? 0 : 1);
  })();`;

test.each(x86(usableBackends()))(
  'VMs that are dropped without being closed go with the garbage, on %s',
  (backend) => {
    if (process.platform !== 'linux')
      return console.warn('SKIPPED: counts of threads, because there is no /proc');
    const args = ['--expose-gc', '-e', DROPS, join(ROOT, 'dist/cjs/index.js'), backend];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, {
      encoding: 'utf8',
      timeout: 60_000,
    });
    expect({ status, stderr, stdout }).toMatchObject({ status: 0, stderr: '' });
  },
);

test('a worker runs a guest to its end', async () => {
  const running = worker(`load(0xe4, 0x10, 0xf4);
    vm.map({ port: 0x10, length: 1 }, { read: () => 9 });
    vcpu.runAsync().then((exit) => parentPort.postMessage([exit.kind, vcpu.registers.rax]));`);
  expect(await new Promise((resolve) => running.once('message', resolve))).toEqual(['hlt', 9n]);
});

test.each(['soft', 'wasm'] as const)('a VM has the CPU model that it is given, on %s', (runner) => {
  const has = (cpu: string | undefined, bit: number) => {
    using vm = createVm(runner, { memory: '64K', cpu });
    return ((vm.createVcpu(0).cpuid(1).ecx >>> bit) & 1) === 1;
  };
  const [sse42, aes] = [20, 25];
  expect([undefined, 'v1', 'v2', 'v2,+aes,-sse4_2'].map((cpu) => has(cpu, sse42))).toEqual([
    false,
    false,
    true,
    false,
  ]);
  expect(['v2', 'v2,+aes,-sse4_2', 'max'].map((cpu) => has(cpu, aes))).toEqual([false, true, true]);
  for (const cpu of ['', 'v9', 'v2,+turbo', 2 as never]) {
    expect(codeOf(() => createVm(runner, { memory: '64K', cpu }))).toBe('ERR_INVALID_ARGUMENT');
  }
});

test('a CPU model makes auto choose soft', () => {
  using vm = Vm.create({ memory: '64K', cpu: 'v1' });
  expect(vm.backend).toBe('soft');
});

test.each(['soft', 'wasm'] as const)('RDRAND gives numbers of the host on %s', (runner) => {
  using vm = createVm(runner, { memory: '64K', cpu: 'v1,+rdrand' });
  // rdrand eax; hlt
  vm.memory.write(0x1000, Uint8Array.of(0x66, 0x0f, 0xc7, 0xf0, 0xf4));
  const vcpu = vm.createVcpu(0);
  const system = vcpu.systemRegisters;
  const draw = () => {
    vcpu.systemRegisters = { ...system, cs: { ...system.cs, base: 0n, selector: 0 } };
    vcpu.registers = { ...vcpu.registers, rip: 0x1000n, rflags: 2n };
    expect(vcpu.run().kind).toBe('hlt');
    expect(vcpu.registers.rflags & 1n).toBe(1n);
    return vcpu.registers.rax;
  };
  expect(draw()).not.toBe(draw());
});
