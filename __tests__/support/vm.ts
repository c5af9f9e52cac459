/** Small guests for tests, and what they can run on here. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { probeKvm } from '../../ts/backend.js';
import {
  type Architecture,
  type BackendKind,
  type BaseVm,
  type BaseVmOptions,
  backendCapabilities,
  type Vcpu,
  Vm,
} from '../../ts/index.js';
import { WasmEngine } from '../../ts/wasm.js';

/** What runs a VM: a backend of the addon, or the WebAssembly module. */
export type Runner = BackendKind | 'wasm';

/** The backends that run small guests on this machine. Those that do not are said out loud. */
export function usableBackends(): BackendKind[] {
  const usable: BackendKind[] = ['soft'];
  const longMode = probeKvm().steps.find((step) => step.name === 'run 64-bit code');
  if (longMode?.works) usable.push('kvm');
  else process.stderr.write(`SKIPPED: all tests on kvm, because ${probeKvm().reason}\n`);
  return usable;
}

/** All that runs VMs here. */
export function usableRunners(): Runner[] {
  return [...usableBackends(), 'wasm'];
}

/** What a runner's guests are programs for. */
export function architectureOf(runner: Runner): Architecture {
  return runner === 'wasm' ? 'x86_64' : backendCapabilities(runner).architecture;
}

/** Those of `runners` whose guests are programs for x86. Others are said out loud. */
export function x86<R extends Runner>(runners: R[]): R[] {
  const fit = runners.filter((runner) => architectureOf(runner) === 'x86_64');
  if (fit.length < runners.length) {
    process.stderr.write('SKIPPED: x86 guests on kvm, because it is one for aarch64\n');
  }
  return fit;
}

/** As the DOM's types have it. */
declare const WebAssembly: { readonly Module: new (bytes: Uint8Array) => object };

let loaded: WasmEngine | undefined;

/** The WebAssembly module, which `npm test` builds before jest starts. */
export function wasmEngine(): WasmEngine {
  loaded ??= new WasmEngine(new WebAssembly.Module(readFileSync(join(__dirname, '../../dist/squib.wasm'))));
  return loaded;
}

/** A VM on this runner. */
export function createVm(runner: Runner, options: BaseVmOptions): BaseVm {
  return runner === 'wasm' ? wasmEngine().createVm(options) : Vm.create({ ...options, backend: runner });
}

/** Where a real-mode guest starts. */
export const ENTRY = 0x1000;

/** Puts a vCPU into real mode, before what is at `entry`. */
export function enterRealMode(vcpu: Vcpu, entry: number): void {
  const system = vcpu.systemRegisters;
  vcpu.systemRegisters = { ...system, cs: { ...system.cs, base: 0n, selector: 0 } };
  vcpu.registers = { ...vcpu.registers, rip: BigInt(entry), rflags: 2n };
}

/** A VM whose vCPU is about to execute `code` in real mode. */
export function realMode(runner: Runner, code: readonly number[] | Uint8Array): { vm: BaseVm; vcpu: Vcpu } {
  const vm = createVm(runner, { memory: '64K' });
  vm.memory.write(ENTRY, Uint8Array.from(code));
  const vcpu = vm.createVcpu(0);
  enterRealMode(vcpu, ENTRY);
  return { vm, vcpu };
}

/** The code of the error that `call` throws, or undefined. */
export function codeOf(call: () => unknown): string | undefined {
  try {
    call();
    return undefined;
  } catch (error) {
    return (error as { code?: string }).code;
  }
}

/** The same for a promise. */
export async function codeOfAsync(promise: Promise<unknown>): Promise<string | undefined> {
  try {
    await promise;
    return undefined;
  } catch (error) {
    return (error as { code?: string }).code;
  }
}

/** All that a stream gives, as text. */
export async function text(stream: ReadableStream<Uint8Array>): Promise<string> {
  let all = '';
  for await (const bytes of stream as unknown as AsyncIterable<Uint8Array>)
    all += Buffer.from(bytes).toString('latin1');
  return all;
}
