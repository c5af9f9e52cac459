/** A virtual PC that boots a kernel. */
import './dispose.js';
import { EventEmitter } from 'node:events';
import { open } from 'node:fs/promises';
import { type Address, byteArray, byteSize, object, u32 } from './arguments.js';
import { type BackendChoice, type ChosenBackend, chooseBackend } from './backend.js';
import type { BootReport, MachineStats, NativeMachine, OutcomeKind } from './binding.cjs';
import { defaultCommandLine } from './command-line.js';
import { MachineConsole } from './console.js';
import { type CpuModel, cpuModel } from './cpu-model.js';
import type { Device, DeviceRange } from './device.js';
import type { DoorbellRegister, Ring } from './doorbell.js';
import { guard, invalid, SquibError, toSquibError } from './errors.js';
import type { VmExit } from './exits.js';
import { DeviceMap, type DeviceMapping } from './mapping.js';
import { Memory } from './memory.js';
import { native } from './native.cjs';

export type { BootReport, MachineStats, OutcomeKind };

/** An image: its bytes, or the path or `file:` URL of its file. */
export type Image = Uint8Array | string | URL;

/** What a machine is made of. */
export interface MachineOptions {
  /** A Linux kernel (bzImage or vmlinux), or a multiboot or PVH program. */
  readonly kernel?: Image | undefined;
  /**
   * Firmware instead of a kernel: a ROM of a multiple of 64 KiB, such as SeaBIOS', entered at the reset vector. Port 0x402 is
   * free for a device that takes its log.
   */
  readonly firmware?: Image | undefined;
  /** Initial RAM disk. */
  readonly initrd?: Image | undefined;
  /** The kernel's command line. Default: {@link defaultCommandLine}; firmware takes none. */
  readonly cmdline?: string | undefined;
  /** RAM: bytes, or text such as `256M`, which is the default. A multiple of 4096. */
  readonly memory?: Address | string | undefined;
  /** How many vCPUs. Default 1. */
  readonly cpus?: number | undefined;
  /** Which CPU the guest sees; see {@link CpuModel}. */
  readonly cpu?: CpuModel | undefined;
  /**
   * Where the interrupt controllers are: `full`, the default, inside the backend; `split`, only the local APICs there and an
   * I/O APIC on the board, with neither an 8259 nor an 8254. `ERR_UNSUPPORTED` where the backend has not these; see
   * {@link backendCapabilities}.
   */
  readonly irqchip?: 'full' | 'split' | undefined;
  /** Which backend runs it. `auto`, the default, takes KVM where a probe shows that it runs guests at speed, else `soft`. */
  readonly backend?: BackendChoice | undefined;
  /** Whether the board has the device that kvm-unit-tests look for (QEMU's `pc-testdev`). Default: no. */
  readonly testDevice?: boolean | undefined;
  /** Devices that are there from the start; {@link Machine.map} adds more. */
  readonly devices?: readonly { readonly at: DeviceRange; readonly device: Device }[] | undefined;
}

/** How a machine ended. */
export interface Outcome {
  /** What ended it. */
  readonly kind: OutcomeKind;
  /** The exit status that `squib run` ends with for it. */
  readonly status: number;
  /** What the guest wrote to the debug-exit port, if that ended it. */
  readonly value?: number;
  /** The exit that nobody could go on from, if that ended it. */
  readonly exit?: VmExit;
}

/** What happens to a machine. */
export interface MachineEvents {
  /** The guest printed something: a batch of bytes, also when {@link MachineConsole.readable} is read. */
  output: [bytes: Uint8Array];
  /** Linux has started its first process; milliseconds after the machine's creation. */
  userspace: [milliseconds: number];
  /** The machine has ended. */
  ended: [outcome: Outcome];
}

/** Options of {@link Machine.run}. */
export interface MachineRunOptions {
  /**
   * Ends the machine: with the outcome `timedOut` if the signal is of `AbortSignal.timeout`, else with `aborted`.
   */
  readonly signal?: AbortSignal | undefined;
}

/**
 * A virtual PC: RAM, vCPUs, interrupt controllers, timers, a serial console, ACPI power-off, and your devices. Each vCPU has
 * a thread of its own, so the event loop stays free.
 *
 * @example
 * await using machine = await Machine.create({ kernel: 'vmlinuz', initrd: 'initrd.img' });
 * machine.on('output', (bytes) => process.stdout.write(bytes));
 * const { kind } = await machine.run({ signal: AbortSignal.timeout(60_000) });
 */
export class Machine extends EventEmitter<MachineEvents> implements AsyncDisposable {
  readonly #native: NativeMachine;
  readonly #devices: DeviceMap;
  #running: Promise<Outcome> | undefined;
  #sawUserspace = false;
  #lastStats: MachineStats | undefined;
  /** The serial console. */
  readonly console: MachineConsole;
  /** Guest RAM. */
  readonly memory: Memory;
  /** The backend that runs it, and why. */
  readonly backend: ChosenBackend;
  /** What was loaded. */
  readonly boot: BootReport;
  /** When it was made, as `performance.now()` had it: where the times in {@link stats} and events begin. */
  readonly created: number;

  private constructor(
    machine: NativeMachine,
    console: MachineConsole,
    devices: DeviceMap,
    backend: ChosenBackend,
    created: number,
  ) {
    super();
    this.#native = machine;
    this.#devices = devices;
    this.console = console;
    this.backend = backend;
    this.created = created;
    const memory = guard(() => machine.memory());
    this.memory = new Memory(memory, devices.check);
    this.boot = guard(() => machine.boot());
  }

  /**
   * Builds a machine and loads its kernel or firmware.
   *
   * @throws ERR_IMAGE_FORMAT, ERR_IMAGE_TOO_LARGE, ERR_COMMAND_LINE, ERR_MEMORY_SIZE, ERR_VCPU_COUNT,
   * ERR_DEVICE_OVERLAP, ERR_BACKEND_UNUSABLE, ERR_BACKEND_MISSING, ERR_UNSUPPORTED, ERR_INVALID_ARGUMENT
   */
  static async create(options: MachineOptions): Promise<Machine> {
    const {
      kernel,
      firmware,
      initrd,
      cmdline = firmware === undefined ? defaultCommandLine() : '',
      testDevice = false,
      memory = '256M',
      cpus = 1,
      cpu,
      irqchip = 'full',
      backend = 'auto',
      devices = [],
    } = object(options, 'the options');
    if (typeof cmdline !== 'string') invalid('the command line must be text');
    if ((kernel === undefined) === (firmware === undefined)) invalid('give a kernel, or firmware instead');
    const parts = {
      memory: byteSize(memory),
      cpus: u32(cpus, 'the number of vCPUs'),
      irqchip,
      kernel: await (kernel === undefined ? imageBytes(firmware, 'firmware') : imageBytes(kernel, 'kernel')),
      firmware: firmware !== undefined,
      testDevice,
      commandLine: cmdline,
      ...(cpu === undefined ? {} : { cpu: cpuModel(cpu) }),
      ...(initrd === undefined ? {} : { initrd: await imageBytes(initrd, 'initrd') }),
    };
    const chosen = chooseBackend(backend, cpu);
    const map = new DeviceMap();
    const { record, dispatch } = map.table;
    const listener: { console?: MachineConsole } = {};
    const notify = (event: number) => listener.console?.notify(event);
    const now = performance.now();
    const created = await guard(() =>
      native().createMachine(chosen.backend, parts, record, dispatch, notify),
    );
    if ('code' in created) throw toSquibError(created);
    listener.console = new MachineConsole(created, (bytes) => machine.#printed(bytes));
    const machine = new Machine(created, listener.console, map, chosen, now);
    try {
      for (const { at, device } of devices) machine.map(at, device);
    } catch (error) {
      machine.close();
      throw error;
    }
    return machine;
  }

  /**
   * Runs the machine until it ends. When a device fails it rejects with that device's error, the guest stands still, and
   * `run` can be called again. A machine that has ended is not run again: that is `ERR_CLOSED`.
   */
  async run(options: MachineRunOptions = {}): Promise<Outcome> {
    const { signal } = object(options, 'the options');
    this.#devices.check();
    if (this.#running !== undefined) throw new SquibError('ERR_VCPU_BUSY', 'the machine is running already');
    this.#running = this.#run(signal);
    try {
      return await this.#running;
    } finally {
      this.#running = undefined;
    }
  }

  async #run(signal: AbortSignal | undefined): Promise<Outcome> {
    const stop = () => {
      if (!this.#devices.closed) guard(() => this.#native.end(isTimeout(signal)));
    };
    if (signal?.aborted) return this.#ended(guard(() => this.#native.end(isTimeout(signal))) as Outcome);
    signal?.addEventListener('abort', stop, { once: true });
    try {
      const end = await guard(() => this.#native.run());
      if ('code' in end) throw this.#devices.table.takeAnyFailure(end) ?? toSquibError(end);
      return this.#ended(end as Outcome);
    } finally {
      signal?.removeEventListener('abort', stop);
    }
  }

  #ended(outcome: Outcome): Outcome {
    if (!this.#devices.closed) this.console.end();
    this.emit('ended', outcome);
    return outcome;
  }

  #printed(bytes: Uint8Array): void {
    this.emit('output', bytes);
    if (this.#sawUserspace || this.#devices.closed) return;
    const { userspaceMs } = this.stats;
    if (userspaceMs === undefined) return;
    this.#sawUserspace = true;
    this.emit('userspace', userspaceMs);
  }

  /**
   * Gives a range of ports or addresses to `device`; `ERR_DEVICE_OVERLAP` when part of it is taken, RAM, or the board's.
   * The board leaves memory from 0xc000_0000 to 0xfec0_0000 to devices.
   */
  map(at: DeviceRange, device: Device): DeviceMapping {
    return this.#devices.map(this.#native, at, device);
  }

  /** Puts a doorbell at a port or address, as {@link Vm.mapDoorbell}; `ERR_DEVICE_OVERLAP` where the address is the backend's, too. */
  mapDoorbell(register: DoorbellRegister, ring: Ring): DeviceMapping {
    return this.#devices.mapDoorbell(this.#native, register, ring);
  }

  /** Sets the level of interrupt line `gsi` (0–23); `ERR_IRQ_LINE` when there is none or it is the board's. */
  setIrqLine(gsi: number, level: boolean): void {
    const line = u32(gsi, 'an interrupt line');
    guard(() => this.#native.setIrqLine(line, level));
  }

  /** What the machine has done so far; after {@link close}, what it had done by then. */
  get stats(): MachineStats {
    if (this.#devices.closed && this.#lastStats !== undefined) return this.#lastStats;
    return guard(() => this.#native.stats());
  }

  /** Whether it has been closed. */
  get closed(): boolean {
    return this.#devices.closed;
  }

  /**
   * Ends the machine, with the outcome `aborted` if it was running, and lets go of everything. A device may call this while
   * it answers. Further calls change nothing.
   */
  close(): void {
    if (this.#devices.closed) return;
    this.#lastStats = this.stats;
    this.console.end();
    this.#devices.close();
    guard(() => this.#native.close());
    this.memory.close();
  }

  /** Closes the machine and waits until its threads have ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    const running = this.#running;
    this.close();
    await running?.catch(() => {});
  }
}

function isTimeout(signal: AbortSignal | undefined): boolean {
  return (signal?.reason as { name?: unknown } | undefined)?.name === 'TimeoutError';
}

/** The most that is taken from what is no file, such as a pipe: it may never end. */
const MAX_STREAM = 256 << 20;

async function readImage(image: string | URL): Promise<Uint8Array> {
  const file = await open(image);
  try {
    if ((await file.stat()).isFile()) return await file.readFile();
    const chunks: Uint8Array[] = [];
    let length = 0;
    for await (const chunk of file.createReadStream({ autoClose: false })) {
      chunks.push(chunk);
      length += chunk.length;
      if (length > MAX_STREAM) {
        const message = `${String(image)} does not end within 256 MiB; give a file`;
        throw new SquibError('ERR_IMAGE_TOO_LARGE', message);
      }
    }
    return Buffer.concat(chunks, length);
  } finally {
    await file.close();
  }
}

async function imageBytes(image: Image | undefined, what: string): Promise<Uint8Array> {
  if (ArrayBuffer.isView(image)) return byteArray(image as Uint8Array, `the ${what}`);
  if (typeof image !== 'string' && !(image instanceof URL))
    invalid(`the ${what} must be a path, a file URL or bytes`);
  try {
    return await readImage(image);
  } catch (error) {
    if (error instanceof SquibError) throw error;
    throw new SquibError(
      'ERR_INVALID_ARGUMENT',
      `cannot read the ${what} ${String(image)}: ${(error as Error).message}`,
      {
        cause: error,
      },
    );
  }
}
