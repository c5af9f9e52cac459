/** Which CPU a guest sees. */
import { invalid } from './errors.js';

/**
 * A CPU model of the soft backend: `v1` (the default: x86-64-v1), `v2` (x86-64-v2) or `max` (all there is), features by
 * their names in `/proc/cpuinfo` added and taken away, and whose processor it is: `v2,+aes,-popcnt`, `max,vendor=amd`
 * (`intel` is the default). Unknown names are `ERR_INVALID_ARGUMENT`, and the message lists the known ones.
 */
export type CpuModel = string;

/** Checks that a CPU model is text; what it says is checked by the backend. */
export function cpuModel(cpu: CpuModel): string {
  return typeof cpu === 'string' ? cpu : invalid('a CPU model must be text');
}
