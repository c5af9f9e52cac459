/** The console of a machine, as streams. */
import { byteArray } from './arguments.js';
import type { NativeMachine } from './binding.cjs';
import { guard, SquibError } from './errors.js';

/** What the addon's listener is told, as crates/squib-node/src/console.rs has it. */
const OUTPUT = 0;

/** Bytes of output that are kept while nobody reads. */
const BACKLOG = 1 << 20;

/** Bytes that wait in the stream before the guest has to. */
const HIGH_WATER_MARK = 1 << 16;

/**
 * The guest's serial console. Output comes in batches, not byte by byte.
 *
 * Once {@link readable} has been asked for, no output is lost: a guest that prints faster than the stream is read waits.
 * Before that the last mebibyte is kept, and the stream begins with it.
 */
export class MachineConsole {
  readonly #native: NativeMachine;
  readonly #onOutput: (bytes: Uint8Array) => void;
  #backlog: Uint8Array[] = [];
  #backlogBytes = 0;
  #readable: ReadableStream<Uint8Array> | undefined;
  #writable: WritableStream<Uint8Array> | undefined;
  #controller: ReadableStreamDefaultController<Uint8Array> | undefined;
  #roomWaiters: (() => void)[] = [];
  #ended = false;

  /** @internal `onOutput` sees every batch. */
  constructor(native: NativeMachine, onOutput: (bytes: Uint8Array) => void) {
    this.#native = native;
    this.#onOutput = onOutput;
  }

  /** What the guest prints. It ends with the machine. */
  get readable(): ReadableStream<Uint8Array> {
    this.#readable ??= this.#open();
    return this.#readable;
  }

  /** What the guest reads: the other half of {@link readable}, for `pipeTo`. */
  get writable(): WritableStream<Uint8Array> {
    this.#writable ??= new WritableStream({ write: (bytes) => this.write(bytes) });
    return this.#writable;
  }

  /** Types `data` on the guest's console. Resolves when the guest's queue has taken all of it. */
  async write(data: string | Uint8Array): Promise<void> {
    let rest = typeof data === 'string' ? new TextEncoder().encode(data) : byteArray(data, 'data');
    while (rest.length > 0) {
      if (this.#ended) throw new SquibError('ERR_CLOSED', 'the machine has ended, and its console with it');
      const taken = guard(() => this.#native.sendInput(rest));
      rest = rest.subarray(taken);
      if (rest.length > 0) await new Promise<void>((room) => this.#roomWaiters.push(room));
    }
  }

  /** Bytes of output that were lost because nobody took them in time. */
  get lost(): number {
    return guard(() => this.#native.lostOutput());
  }

  /** @internal The addon's listener. */
  readonly notify = (event: number): void => {
    if (this.#ended) return;
    if (event === OUTPUT) this.#pump();
    else this.#wakeWriters();
  };

  /** @internal Takes the last output and ends the streams. */
  end(): void {
    if (this.#ended) return;
    this.#take();
    this.#ended = true;
    this.#wakeWriters();
    this.#controller?.close();
    this.#controller = undefined;
  }

  #open(): ReadableStream<Uint8Array> {
    const start = (controller: ReadableStreamDefaultController<Uint8Array>) => {
      for (const bytes of this.#backlog) controller.enqueue(bytes);
      this.#backlog = [];
      if (this.#ended) return controller.close();
      this.#controller = controller;
      guard(() => this.#native.waitForReader(true));
    };
    const pull = () => this.#pump();
    const cancel = () => {
      this.#controller = undefined;
      if (!this.#ended) guard(() => this.#native.waitForReader(false));
    };
    const strategy = new ByteLengthQueuingStrategy({ highWaterMark: HIGH_WATER_MARK });
    return new ReadableStream({ start, pull, cancel }, strategy);
  }

  /** Takes what waits, unless the stream is full: then the guest waits for its reader. */
  #pump(): void {
    if (!this.#ended && (this.#controller?.desiredSize ?? 1) > 0) this.#take();
  }

  #take(): void {
    const bytes = guard(() => this.#native.takeOutput());
    if (bytes.length === 0) return;
    if (this.#controller !== undefined) this.#controller.enqueue(bytes);
    else if (this.#readable === undefined) this.#keep(bytes);
    this.#onOutput(bytes);
  }

  #keep(bytes: Uint8Array): void {
    this.#backlog.push(bytes);
    this.#backlogBytes += bytes.length;
    while (this.#backlogBytes > BACKLOG && this.#backlog.length > 1) {
      this.#backlogBytes -= this.#backlog.shift()?.length ?? 0;
    }
  }

  #wakeWriters(): void {
    const waiters = this.#roomWaiters;
    this.#roomWaiters = [];
    for (const room of waiters) room();
  }
}
