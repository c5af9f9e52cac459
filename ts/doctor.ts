/** What this machine can run guests with. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  backendCapabilities,
  type ChosenBackend,
  chooseBackend,
  type KvmReport,
  probeKvm,
} from './backend.js';
import { type ErrorCode, toSquibError } from './errors.js';
import { native, packageRoot, target } from './native.cjs';

/** Whether something works, and if not why. */
export type Finding =
  | { readonly works: true }
  | { readonly works: false; readonly code: ErrorCode; readonly why: string };

/** What {@link doctor} found. */
export interface Diagnosis {
  /** Version of squib. */
  readonly squib: string;
  /** Version of node. */
  readonly node: string;
  /** The platform as packages are named. */
  readonly target: string;
  /** Whether the native addon loads. */
  readonly addon: Finding;
  /** What the machine's KVM is worth, if the addon loads. */
  readonly kvm: KvmReport | null;
  /** Whether the soft backend works. */
  readonly soft: Finding;
  /** What `auto` chooses, if anything can run guests. */
  readonly auto: ChosenBackend | null;
}

function finding(check: () => unknown): Finding {
  try {
    check();
    return { works: true };
  } catch (error) {
    const { code, message } = toSquibError(error);
    return { works: false, code, why: message };
  }
}

/** The version of this package. */
export function version(): string {
  return (JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string })
    .version;
}

/** Looks at everything that decides whether guests run here, and throws nothing. */
export function doctor(): Diagnosis {
  const addon = finding(native);
  const soft = addon.works ? finding(() => backendCapabilities('soft')) : addon;
  const kvm = addon.works ? probeKvm() : null;
  const usable = soft.works || kvm?.runsGuestsAtSpeed === true;
  const auto = usable ? chooseBackend('auto') : null;
  return { squib: version(), node: process.version, target: target(), addon, kvm, soft, auto };
}
