/** `squib inspect`: shows what squib takes instructions to mean. */
import { parseArgs } from 'node:util';
import { SquibError } from '../errors.js';
import { type InspectedInstruction, type InspectOptions, inspect as read } from '../inspect.js';
import { BAD_ARGUMENTS } from './status.js';
import { paint } from './style.js';

/** What `squib inspect` takes, for `squib help`. */
export const INSPECT_OPTIONS: readonly (readonly [option: string, meaning: string])[] = [
  ['BYTES', 'instructions in hexadecimal, such as 48 01 d8'],
  ['--mode BITS', '16, 32 or 64; default 64'],
  ['--address ADDRESS', 'where the first byte is; default 0'],
  ['--json', 'one object for each instruction'],
];

interface InspectArguments {
  readonly code: Uint8Array;
  readonly options: InspectOptions;
  readonly json: boolean;
}

/** Prints the operations of each instruction, and gives the exit status: 0 when all bytes are instructions. */
export function inspect(argv: readonly string[]): number {
  const { code, options, json } = parse(argv);
  const instructions = read(code, options);
  const text = json ? JSON.stringify(instructions, plain, 2) : instructions.map(describe).join('\n\n');
  process.stdout.write(`${text}\n`);
  return instructions.every((instruction) => instruction.error === undefined) ? 0 : BAD_ARGUMENTS;
}

function parse(argv: readonly string[]): InspectArguments {
  try {
    const { values, positionals } = parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: { mode: { type: 'string' }, address: { type: 'string' }, json: { type: 'boolean' } },
    });
    const { mode = '64', address = '0', json = false } = values;
    if (mode !== '16' && mode !== '32' && mode !== '64')
      throw new RangeError(`--mode takes 16, 32 or 64, not ${JSON.stringify(mode)}`);
    return {
      code: hexadecimal(positionals.join(' ')),
      options: { bits: Number(mode) as 16 | 32 | 64, address: BigInt(address) },
      json,
    };
  } catch (error) {
    throw new SquibError('ERR_INVALID_ARGUMENT', (error as Error).message, { cause: error });
  }
}

function hexadecimal(text: string): Uint8Array {
  const digits = text.replaceAll(/\s/g, '');
  if (!/^([0-9a-f]{2})+$/i.test(digits))
    throw new RangeError(`squib inspect takes bytes in hexadecimal, not ${JSON.stringify(text)}`);
  return Buffer.from(digits, 'hex');
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
}

function plain(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return `0x${value.toString(16)}`;
  return value instanceof Uint8Array ? hex(value) : value;
}

function describe({ address, bytes, text, error, operations }: InspectedInstruction): string {
  const { stdout } = process;
  const meaning = text === undefined ? paint(stdout, 'red', error ?? '') : paint(stdout, 'bold', text);
  return [
    `${address.toString(16)}: ${hex(bytes)}  ${meaning}`,
    ...operations.map((line) => `    ${line}`),
  ].join('\n');
}
