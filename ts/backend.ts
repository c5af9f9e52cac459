/** Which backend runs a VM. */
import type { Architecture, BackendCapabilities, BackendKind, GicVersion, KvmReport } from './binding.cjs';
import type { CpuModel } from './cpu-model.js';
import { guard, invalid } from './errors.js';
import { native } from './native.cjs';

export type { Architecture, BackendCapabilities, BackendKind, GicVersion, KvmReport };

/** A backend by name, or `auto`. */
export type BackendChoice = 'auto' | BackendKind;

/** The choices there are. */
export const BACKEND_CHOICES: readonly BackendChoice[] = ['auto', 'kvm', 'soft'];

/** A backend and why it was chosen. */
export interface ChosenBackend {
  readonly backend: BackendKind;
  /** In words, for people. */
  readonly reason: string;
}

let report: KvmReport | undefined;

/** What this machine's KVM is worth, found out by running small guests. Done once; takes a fraction of a second. */
export function probeKvm(): KvmReport {
  report ??= guard(() => native().probeKvm());
  return report;
}

/** What a backend can do here; `ERR_BACKEND_UNUSABLE` or `ERR_BACKEND_MISSING` when nothing. */
export function backendCapabilities(backend: BackendKind): BackendCapabilities {
  return guard(() => native().backendCapabilities(backend));
}

/**
 * The backend that a choice stands for. `auto` takes KVM only where guests really run at speed, and where no CPU model is
 * asked for: KVM's guests see the host's.
 */
export function chooseBackend(choice: BackendChoice, cpu?: CpuModel): ChosenBackend {
  if (!BACKEND_CHOICES.includes(choice)) {
    invalid(`there is no backend ${JSON.stringify(choice)}; use one of ${BACKEND_CHOICES.join(', ')}`);
  }
  if (choice !== 'auto') return { backend: choice, reason: 'asked for' };
  if (cpu !== undefined) return { backend: 'soft', reason: 'a CPU model was asked for' };
  const { runsGuestsAtSpeed, reason } = probeKvm();
  return { backend: runsGuestsAtSpeed ? 'kvm' : 'soft', reason };
}
