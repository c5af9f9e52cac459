/** Machines: boot, console, devices, outcomes, endings. */
import { readFileSync } from 'node:fs';
import { probeKvm } from '../ts/backend.js';
import {
  backendCapabilities,
  type Device,
  defaultCommandLine,
  Machine,
  type MachineOptions,
  type Outcome,
} from '../ts/index.js';
import { image, SPIN } from './support/arm64.js';
import { commandLinePrinter, guestFile, multiboot, POWER_OFF } from './support/guests.js';
import { architectureOf, codeOf, codeOfAsync, text, usableBackends, x86 } from './support/vm.js';

const HELLO = guestFile('hello');
/** Where the hello guest looks for the device that answers its lines. */
const LINE_PORT = 0x510;

/** Answers each line with itself in capitals. */
function capitals(): Device {
  let line = '';
  let answer = [...Buffer.from('capitals')];
  return {
    name: 'capitals',
    read: () => answer.shift() ?? 0,
    write: (_offset, _width, value) => {
      if (Number(value) !== 10) {
        line += String.fromCharCode(Number(value));
        return;
      }
      answer = [...Buffer.from(line.toUpperCase())];
      line = '';
    },
  };
}

/** A multiboot program that prints so many lines on the debug console and powers off. */
function printer(lines: number): Uint8Array {
  const text = [...Buffer.from('0123456789abcde\n')];
  return multiboot([
    ...[0xb9, lines & 0xff, (lines >> 8) & 0xff, (lines >> 16) & 0xff, 0], // mov ecx, lines
    ...text.flatMap((letter) => [0xb0, letter, 0xe6, 0xe9]), // mov al, letter; out 0xe9, al
    ...[0x49, 0x75, 256 - (text.length * 4 + 3)], // dec ecx; jnz back
    ...POWER_OFF,
  ]);
}

/** A multiboot program that prints what Linux does when user space begins. */
function announcer(): Uint8Array {
  const line = [...Buffer.from('Run /init as init process\n')];
  return multiboot([...line.flatMap((letter) => [0xb0, letter, 0xe6, 0xe9]), ...POWER_OFF]);
}

describe.each(x86(usableBackends()))('a machine on %s', (backend) => {
  const hello = (options: Partial<MachineOptions> = {}) =>
    Machine.create({
      kernel: HELLO,
      memory: '16M',
      backend,
      devices: [{ at: { port: LINE_PORT, length: 1 }, device: capitals() }],
      ...options,
    });

  test('boots, talks to its console and a TypeScript device, and powers off', async () => {
    await using machine = await hello();
    const output = text(machine.console.readable);
    const ended: Outcome[] = [];
    machine.on('ended', (outcome) => ended.push(outcome));
    const run = machine.run();
    expect(await codeOfAsync(machine.run())).toBe('ERR_VCPU_BUSY');
    await machine.console.write('squib\rq');
    const outcome = await run;
    expect(outcome).toEqual({ kind: 'powerOff', status: 0 });
    expect(ended).toEqual([outcome]);
    const printed = await output;
    expect(printed).toContain('hello from 64-bit mode');
    expect(printed).toContain('capitals');
    expect(printed).toContain('SQUIB');
    const { devices, firstOutputMs, panicked } = machine.stats;
    expect(devices.find((d) => d.name === 'capitals')?.writes).toBe(6);
    expect(firstOutputMs).toBeGreaterThan(0);
    expect(panicked).toBe(false);
    expect(machine.boot.protocol).toBe('multiboot');
    expect(await codeOfAsync(machine.run())).toBe('ERR_CLOSED');
    expect(await codeOfAsync(machine.console.write('late'))).toBe('ERR_CLOSED');
  });

  test('output before anybody listens is kept', async () => {
    await using machine = await hello();
    const run = machine.run();
    await machine.console.write('q');
    await run;
    expect(await text(machine.console.readable)).toContain('hello from 64-bit mode');
  });

  test('an aborted run ends as aborted, one that takes too long as timedOut', async () => {
    for (const [signal, kind, status] of [
      [AbortSignal.timeout(30), 'timedOut', 124],
      [AbortSignal.abort(), 'aborted', 130],
    ] as const) {
      await using machine = await hello();
      expect(await machine.run({ signal })).toEqual({ kind, status });
    }
  });

  test('closing ends the run, and everything afterwards is ERR_CLOSED', async () => {
    const machine = await hello();
    const run = machine.run();
    setTimeout(() => machine.close(), 20);
    expect((await run).kind).toBe('aborted');
    machine.close();
    expect(await codeOfAsync(machine.run())).toBe('ERR_CLOSED');
    expect(codeOf(() => machine.memory.read(0, 1))).toBe('ERR_CLOSED');
    expect(codeOf(() => machine.map({ port: 0x700, length: 1 }, {}))).toBe('ERR_CLOSED');
    expect(machine.stats.devices.length).toBeGreaterThan(0);
  });

  test('a device that fails ends the run with its error; the run can go on', async () => {
    const device = capitals();
    let broken = true;
    const cause = new Error('broken');
    const fragile: Device = {
      ...device,
      read: () => {
        if (!broken) return device.read?.(0, 1) ?? 0;
        broken = false;
        throw cause;
      },
    };
    await using machine = await hello({ devices: [{ at: { port: LINE_PORT, length: 1 }, device: fragile }] });
    await expect(machine.run()).rejects.toMatchObject({ code: 'ERR_DEVICE_FAILED', cause });
    await machine.console.write('q');
    expect((await machine.run()).kind).toBe('powerOff');
  });

  test('with several vCPUs all threads end with the machine', async () => {
    const cpus = 2;
    if (backendCapabilities(backend).maxVcpus < cpus) {
      expect(await codeOfAsync(hello({ cpus }))).toBe('ERR_VCPU_COUNT');
      return;
    }
    await using machine = await hello({ cpus });
    const run = machine.run();
    await machine.console.write('q');
    expect((await run).kind).toBe('powerOff');
  });

  test('the I/O APIC can be on the board, where the backend has the local ones alone', async () => {
    if (!backendCapabilities(backend).irqchips.includes('split')) {
      expect(await codeOfAsync(hello({ irqchip: 'split' }))).toBe('ERR_UNSUPPORTED');
      return;
    }
    await using machine = await hello({ irqchip: 'split' });
    const run = machine.run();
    await machine.console.write('q');
    expect((await run).kind).toBe('powerOff');
    expect(machine.stats.devices.map(({ name }) => name)).toContain('I/O APIC');
  });

  test('a device that closes its machine', async () => {
    const machine = await hello({
      devices: [{ at: { port: LINE_PORT, length: 1 }, device: { read: closeAndAnswer } }],
    });
    function closeAndAnswer(): number {
      machine.close();
      return 0;
    }
    expect((await machine.run()).kind).toBe('aborted');
  });
});

test('a command line of one’s own takes the place of the default', async () => {
  for (const [cmdline, expected] of [
    [undefined, defaultCommandLine()],
    ['mine', 'mine'],
    ['', ''],
  ] as const) {
    await using machine = await Machine.create({
      kernel: commandLinePrinter(),
      cmdline,
      memory: '16M',
      backend: 'soft',
    });
    await machine.run();
    expect(await text(machine.console.readable)).toBe(expected);
  }
});

test('a machine tells when user space runs, and when it has ended', async () => {
  await using machine = await Machine.create({ kernel: announcer(), memory: '16M', backend: 'soft' });
  const events: unknown[] = [];
  machine.on('userspace', (milliseconds) => events.push(milliseconds));
  machine.on('ended', ({ kind }) => events.push(kind));
  await machine.run();
  expect(events).toEqual([machine.stats.userspaceMs, 'powerOff']);
  expect(machine.stats.userspaceMs).toBeGreaterThan(0);
});

test('a run that is under way when its machine is disposed of has ended afterwards', async () => {
  const machine = await Machine.create({ kernel: HELLO, memory: '16M', backend: 'soft' });
  const ends: string[] = [];
  const run = machine.run().then(({ kind }) => ends.push(kind));
  await machine[Symbol.asyncDispose]();
  await run;
  expect(ends).toEqual(['aborted']);
  expect(machine.closed).toBe(true);
});

test('what cannot be typed is refused', async () => {
  await using machine = await Machine.create({ kernel: HELLO, memory: '16M', backend: 'soft' });
  for (const data of [5, [1, 2], undefined]) {
    expect(await codeOfAsync(machine.console.write(data as never))).toBe('ERR_INVALID_ARGUMENT');
  }
});

test('what is piped into the console reaches the guest', async () => {
  await using machine = await Machine.create({ kernel: HELLO, memory: '16M', backend: 'soft' });
  const run = machine.run();
  await new Blob(['q']).stream().pipeTo(machine.console.writable);
  expect((await run).kind).toBe('powerOff');
});

describe('console output', () => {
  // On soft: no backend matters here, and a million exits take a while where KVM interprets.
  const printing = (lines: number) =>
    Machine.create({ kernel: printer(lines), memory: '16M', backend: 'soft' });

  test('a guest that prints faster than it is read waits, and nothing is lost', async () => {
    // Prints 3 MiB of counted lines of 16 bytes on the debug console, then powers off.
    const lines = (3 << 20) / 16;
    await using machine = await printing(lines);
    const reader = machine.console.readable.getReader();
    const run = machine.run();
    // Long enough for a guest that does not wait to print everything.
    await new Promise((later) => setTimeout(later, 300));
    let read = 0;
    let last = '';
    for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
      read += chunk.value.length;
      last = (last + Buffer.from(chunk.value).toString('latin1')).slice(-16);
    }
    expect(await run).toEqual({ kind: 'powerOff', status: 0 });
    expect(read).toBe(lines * 16);
    expect(last).toBe('0123456789abcde\n');
  });

  test('an abort ends a guest that waits for a reader', async () => {
    await using machine = await printing(1 << 20);
    machine.console.readable;
    expect((await machine.run({ signal: AbortSignal.timeout(300) })).kind).toBe('timedOut');
  });
});

describe('bad input', () => {
  const [backend = 'soft'] = x86(usableBackends());
  const base = { kernel: HELLO, memory: '16M', backend } as const;

  const bad: [string, Record<string, unknown>, string][] = [
    ['no kernel', { kernel: undefined }, 'ERR_INVALID_ARGUMENT'],
    ['a kernel that is not there', { kernel: '/nonexistent/vmlinuz' }, 'ERR_INVALID_ARGUMENT'],
    ['an initrd that is not there', { initrd: '/nonexistent' }, 'ERR_INVALID_ARGUMENT'],
    ['a kernel without an end', { kernel: '/dev/zero' }, 'ERR_IMAGE_TOO_LARGE'],
    ['a folder as a kernel', { kernel: __dirname }, 'ERR_INVALID_ARGUMENT'],
    ['an empty kernel', { kernel: new Uint8Array() }, 'ERR_IMAGE_FORMAT'],
    ['noise as a kernel', { kernel: new Uint8Array(5000).fill(0xa5) }, 'ERR_IMAGE_FORMAT'],
    ['half a kernel', { kernel: readFileSync(HELLO).subarray(0, 100) }, 'ERR_IMAGE_FORMAT'],
    [
      'a kernel larger than memory',
      { kernel: Buffer.concat([multiboot(POWER_OFF), new Uint8Array(16 << 20)]) },
      'ERR_IMAGE_TOO_LARGE',
    ],
    ['an initrd larger than memory', { initrd: new Uint8Array(32 << 20) }, 'ERR_IMAGE_TOO_LARGE'],
    ['no memory', { memory: 0 }, 'ERR_MEMORY_SIZE'],
    ['odd memory', { memory: 4097 }, 'ERR_MEMORY_SIZE'],
    ['more memory than there can be', { memory: '5000T' }, 'ERR_MEMORY_SIZE'],
    ['no vCPUs', { cpus: 0 }, 'ERR_VCPU_COUNT'],
    ['33 vCPUs', { cpus: 33 }, 'ERR_VCPU_COUNT'],
    ['half a vCPU', { cpus: 1.5 }, 'ERR_INVALID_ARGUMENT'],
    ['interrupt controllers that do not exist', { irqchip: 'none' }, 'ERR_UNSUPPORTED'],
    ['interrupt controllers of no kind', { irqchip: 'half' }, 'ERR_INVALID_ARGUMENT'],
    ['a backend that does not exist', { backend: 'qemu' }, 'ERR_INVALID_ARGUMENT'],
    ['a CPU model that does not exist', { backend: 'soft', cpu: 'pentium' }, 'ERR_INVALID_ARGUMENT'],
    ['a CPU feature that does not exist', { backend: 'soft', cpu: 'v2,+turbo' }, 'ERR_INVALID_ARGUMENT'],
    ['a CPU model that is no text', { backend: 'soft', cpu: 2 }, 'ERR_INVALID_ARGUMENT'],
    ['a CPU model on KVM', { backend: 'kvm', cpu: 'v2' }, 'ERR_UNSUPPORTED'],
    ['a command line that is no text', { cmdline: 5 }, 'ERR_INVALID_ARGUMENT'],
    ['a NUL in the command line', { cmdline: 'a\0b' }, 'ERR_COMMAND_LINE'],
    [
      'a device on the console',
      { devices: [{ at: { port: 0x3f8, length: 1 }, device: {} }] },
      'ERR_DEVICE_OVERLAP',
    ],
    ['a device in RAM', { devices: [{ at: { address: 0, length: 1 }, device: {} }] }, 'ERR_DEVICE_OVERLAP'],
  ];
  test.each(bad)('%s', async (_name, options, code) => {
    expect(await codeOfAsync(Machine.create({ ...base, ...options } as MachineOptions))).toBe(code);
  });
});

test('auto takes KVM only where guests run at speed', async () => {
  const { runsGuestsAtSpeed, reason } = probeKvm();
  const kernel = runsGuestsAtSpeed && architectureOf('kvm') === 'arm64' ? image(SPIN) : HELLO;
  await using machine = await Machine.create({ kernel, memory: '16M' });
  expect(machine.backend).toEqual({ backend: runsGuestsAtSpeed ? 'kvm' : 'soft', reason });
});
