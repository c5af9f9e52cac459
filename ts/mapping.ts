/** Devices on the ports and addresses of a VM. */
import { object, whole } from './arguments.js';
import type { DoorbellParts } from './binding.cjs';
import { type Device, type DeviceRange, DeviceTable } from './device.js';
import { type DoorbellRegister, doorbellParts, type Ring } from './doorbell.js';
import { guard, SquibError } from './errors.js';

/** A device or a doorbell that is mapped. */
export interface DeviceMapping extends Disposable {
  /** Takes it away. Accesses that begin later are unclaimed, and rings are not heard any more; further calls change nothing. */
  unmap(): void;
}

/** What has the buses: a part of the addon, or of the WebAssembly module. */
export interface Buses {
  mapPorts(name: string, base: number, length: number, device: number): void;
  mapMmio(name: string, base: number, length: number, device: number): void;
  unmapPorts(base: number): void;
  unmapMmio(base: number): void;
  mapDoorbell(doorbell: DoorbellParts, heard: Ring): number;
  unmapDoorbell(doorbell: number): void;
}

/** The devices of a VM and where they are. */
export class DeviceMap {
  /** What the addon calls. */
  readonly table = new DeviceTable();
  #closed = false;

  /** Gives a range of `buses` to `device`. */
  map(buses: Buses, range: DeviceRange, device: Device): DeviceMapping {
    this.check();
    object(device, 'a device');
    object(range, 'a range');
    const port = 'port' in range;
    const base = port ? whole(range.port, 'a port') : whole(range.address, 'an address');
    const length = whole(range.length, 'a length');
    const name = String(device.name ?? `${port ? 'port' : 'mmio'} 0x${base.toString(16)}`);
    const id = this.table.add(name, device);
    try {
      guard(() => (port ? buses.mapPorts(name, base, length, id) : buses.mapMmio(name, base, length, id)));
    } catch (error) {
      this.table.remove(id);
      throw error;
    }
    return this.#mapping(() => {
      this.table.remove(id);
      if (!this.#closed) guard(() => (port ? buses.unmapPorts(base) : buses.unmapMmio(base)));
    });
  }

  /** Puts a doorbell on `buses`, which `ring` hears. */
  mapDoorbell(buses: Buses, register: DoorbellRegister, ring: Ring): DeviceMapping {
    this.check();
    const parts = doorbellParts(register, ring);
    let mapped = true;
    // A ring may be on its way.
    const heard = (rings: number) => {
      if (mapped && !this.#closed) ring(rings);
    };
    const id = guard(() => buses.mapDoorbell(parts, heard));
    return this.#mapping(() => {
      mapped = false;
      if (!this.#closed) guard(() => buses.unmapDoorbell(id));
    });
  }

  /** What takes a mapping away, once. */
  #mapping(takeAway: () => void): DeviceMapping {
    let mapped = true;
    const unmap = () => {
      if (!mapped) return;
      mapped = false;
      takeAway();
    };
    return { unmap, [Symbol.dispose]: unmap };
  }

  /** Whether the VM has been closed. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Marks the VM as closed; says whether it was open until now. */
  close(): boolean {
    const first = !this.#closed;
    this.#closed = true;
    return first;
  }

  /** @throws ERR_CLOSED */
  readonly check = (): void => {
    if (this.#closed) throw new SquibError('ERR_CLOSED', 'the VM has been closed');
  };
}
