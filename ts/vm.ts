/** A virtual machine without a board, on a backend of the addon. */

import { byteSize, object, u32 } from './arguments.js';
import { type BackendChoice, chooseBackend } from './backend.js';
import { BaseVm, type BaseVmOptions } from './base-vm.js';
import { cpuModel } from './cpu-model.js';
import { guard } from './errors.js';
import { DeviceMap } from './mapping.js';
import { native } from './native.cjs';

/** What a VM is made of, and what runs it. */
export interface VmOptions extends BaseVmOptions {
  /** Which backend runs it. `auto` takes KVM where a probe shows that it runs guests at speed, else `soft`. */
  readonly backend?: BackendChoice;
  /**
   * Entries of the ring in which KVM notes the pages that a vCPU writes while a dirty log is kept: a power of two, from 1024 to
   * {@link BackendCapabilities.dirtyRing}. Default none: KVM keeps a bitmap. {@link Vm.takeDirtyPages} takes as long with a
   * ring as pages were written, and with a bitmap as there is RAM.
   */
  readonly dirtyRing?: number | undefined;
}

/**
 * Memory, vCPUs and devices, with every exit that no device claims coming back to the caller. For a PC that boots a
 * kernel see {@link Machine}.
 *
 * @example
 * using vm = Vm.create({ memory: '64K' });
 * vm.memory.write(0, new Uint8Array([0xe4, 0x10, 0xf4])); // in al, 0x10; hlt
 * vm.map({ port: 0x10, length: 1 }, { read: () => 42 });
 * const vcpu = vm.createVcpu(0);
 * vcpu.run(); // { kind: 'hlt' }
 */
export class Vm extends BaseVm {
  /**
   * Makes a VM without vCPUs and devices.
   *
   * @throws ERR_MEMORY_SIZE, ERR_MEMORY_OVERLAP, ERR_OUT_OF_MEMORY, ERR_BACKEND_UNUSABLE, ERR_BACKEND_MISSING, ERR_UNSUPPORTED,
   * ERR_INVALID_ARGUMENT, ERR_ADDON_MISSING
   */
  static create(options: VmOptions): Vm {
    const { backend = 'auto', memory, irqchip = 'none', cpu, dirtyRing } = object(options, 'the options');
    const size = byteSize(memory);
    const chosen = chooseBackend(backend, cpu).backend;
    const model = cpu === undefined ? undefined : cpuModel(cpu);
    const ring = dirtyRing === undefined ? undefined : u32(dirtyRing, 'the length of a dirty ring');
    const devices = new DeviceMap();
    const { record, dispatch } = devices.table;
    const vm = guard(() => native().NativeVm.create(chosen, size, irqchip, model, ring, record, dispatch));
    return new Vm(vm, devices, chosen);
  }
}
