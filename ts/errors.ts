/** Errors: native ones arrive with a stable `code`, and become classes here and nowhere else. */

/** The stable codes. Match on these; messages may change. */
export const ERROR_CODES = [
  'ERR_INVALID_ARGUMENT',
  'ERR_MEMORY_SIZE',
  'ERR_MEMORY_RANGE',
  'ERR_MEMORY_OVERLAP',
  'ERR_DEVICE_OVERLAP',
  'ERR_DEVICE_FAILED',
  'ERR_DEVICE_REENTERED',
  'ERR_ACCESS_WIDTH',
  'ERR_IRQ_LINE',
  'ERR_VCPU_COUNT',
  'ERR_VCPU_BUSY',
  'ERR_BAD_ENTRY',
  'ERR_CLOSED',
  'ERR_BACKEND_MISSING',
  'ERR_BACKEND_UNUSABLE',
  'ERR_UNSUPPORTED',
  'ERR_HYPERVISOR',
  'ERR_OUT_OF_MEMORY',
  'ERR_REGISTER',
  'ERR_IMAGE_FORMAT',
  'ERR_IMAGE_TOO_LARGE',
  'ERR_COMMAND_LINE',
  'ERR_GUEST_FAILED',
  'ERR_TIMEOUT',
  'ERR_ABORTED',
  'ERR_INTERNAL',
  'ERR_ADDON_MISSING',
] as const;

/** A stable code. */
export type ErrorCode = (typeof ERROR_CODES)[number];

/** What every function of squib throws. */
export class SquibError extends Error {
  override readonly name: string = 'SquibError';
  /** The stable code. */
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** A device in TypeScript failed. Its `cause` is what the device threw, if it threw. */
export class DeviceError extends SquibError {
  override readonly name = 'DeviceError';
  /** The device's name, as it was mapped. */
  readonly device: string;
  /** Where in its range the access was, in bytes. */
  readonly offset: number;
  /** Width of the access in bytes. */
  readonly width: number;
  /** Whether the guest wrote. */
  readonly write: boolean;

  constructor(
    access: { device: string; offset: number; width: number; write: boolean },
    why: string,
    cause?: unknown,
  ) {
    const what = `${access.write ? 'write' : 'read'} of ${access.width} bytes at offset 0x${access.offset.toString(16)}`;
    super(
      'ERR_DEVICE_FAILED',
      `device ${access.device}: ${what}: ${why}`,
      cause === undefined ? undefined : { cause },
    );
    this.device = access.device;
    this.offset = access.offset;
    this.width = access.width;
    this.write = access.write;
  }
}

function isErrorCode(code: unknown): code is ErrorCode {
  return (ERROR_CODES as readonly unknown[]).includes(code);
}

/** The class for an error of the addon, or for the value that stands for one in a promise. */
export function toSquibError(error: unknown): SquibError {
  if (error instanceof SquibError) return error;
  const { code, message, name } = (error ?? {}) as { code?: unknown; message?: unknown; name?: unknown };
  const text = typeof message === 'string' ? message : String(error);
  if (isErrorCode(code)) return new SquibError(code, text);
  // Node-API's own: an argument that could not be converted, or a defect caught at the border.
  const mistaken =
    name === 'TypeError' ||
    (typeof code === 'string' && (code === 'InvalidArg' || code.endsWith('Expected')));
  return new SquibError(mistaken ? 'ERR_INVALID_ARGUMENT' : 'ERR_INTERNAL', text, { cause: error });
}

/** Calls the addon. */
export function guard<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw toSquibError(error);
  }
}

/** @throws ERR_INVALID_ARGUMENT */
export function invalid(message: string): never {
  throw new SquibError('ERR_INVALID_ARGUMENT', message);
}
