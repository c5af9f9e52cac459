/** Small guests for tests, and the backends they can run on here. */
import { probeKvm } from '../../ts/backend.js';
import type { BackendKind, Vcpu } from '../../ts/index.js';
import { Vm } from '../../ts/index.js';

/** The backends that run small guests on this machine. Those that do not are said out loud. */
export function usableBackends(): BackendKind[] {
  const usable: BackendKind[] = ['soft'];
  const longMode = probeKvm().steps.find((step) => step.name === 'run 64-bit code');
  if (longMode?.works) usable.push('kvm');
  else process.stderr.write(`SKIPPED: all tests on kvm, because ${probeKvm().reason}\n`);
  return usable;
}

/** Where a real-mode guest starts. */
export const ENTRY = 0x1000;

/** A VM whose vCPU is about to execute `code` in real mode. */
export function realMode(backend: BackendKind, code: readonly number[] | Uint8Array): { vm: Vm; vcpu: Vcpu } {
  const vm = Vm.create({ backend, memory: '64K' });
  vm.memory.write(ENTRY, Uint8Array.from(code));
  const vcpu = vm.createVcpu(0);
  const system = vcpu.systemRegisters;
  vcpu.systemRegisters = { ...system, cs: { ...system.cs, base: 0n, selector: 0 } };
  vcpu.registers = { ...vcpu.registers, rip: BigInt(ENTRY), rflags: 2n };
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
