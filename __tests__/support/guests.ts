/** squib's own guests, assembled by `npm run build:guests`, put into a VM without a board. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Segment } from '../../ts/binding.cjs';
import type { BaseVm, Vcpu } from '../../ts/index.js';
import { createVm, enterRealMode, type Runner } from './vm.js';

const FOLDER = join(__dirname, '../../dist/guests');

interface GuestFile {
  readonly name: string;
  readonly file: string;
  readonly mode: 'real16' | 'long64' | 'multiboot';
  readonly loadAddress: number;
}

const CATALOGUE = JSON.parse(readFileSync(join(FOLDER, 'guests.json'), 'utf8')) as GuestFile[];

/** The port that the guests use for exits that no board claims. */
export const TEST_PORT = 0x500;
/** The address that they use for memory-mapped exits; two pages. */
export const TEST_MMIO = 0xd000_0000;
/** Where they leave what they read. */
export const RESULTS = 0x4000;

/** The file of a guest. */
export function guestFile(name: string): string {
  const guest = CATALOGUE.find((g) => g.name === name);
  if (guest === undefined) throw new Error(`no guest ${name} in ${FOLDER}; run npm run build:guests`);
  return join(FOLDER, guest.file);
}

/** A VM whose vCPU is about to execute guest `name`. */
export function startGuest(runner: Runner, name: string): { vm: BaseVm; vcpu: Vcpu } {
  const guest = CATALOGUE.find((g) => g.name === name);
  const image = readFileSync(guestFile(name));
  const vm = createVm(runner, { memory: '4M' });
  vm.memory.write(guest?.loadAddress ?? 0, image);
  const vcpu = vm.createVcpu(0);
  const long = guest?.mode === 'long64';
  const start = BigInt(guest?.loadAddress ?? 0);
  if (long) enterLongMode(vm, vcpu);
  else enterRealMode(vcpu, Number(start));
  vcpu.registers = { ...vcpu.registers, rip: start, rsp: long ? 0x8_0000n : start, rflags: 2n };
  return { vm, vcpu };
}

const FLAT: Segment = {
  ...{ base: 0n, limit: 0xffff_ffff, selector: 16, kind: 3, dpl: 0, present: true, codeOrData: true },
  ...{ long: false, big: true, granularity: true, available: false, unusable: false },
};

/** 64-bit mode in ring 0, with the first 4 GiB mapped one to one in pages of 2 MiB. */
function enterLongMode(vm: BaseVm, vcpu: Vcpu): void {
  const [gdt, pml4, pdpt, directories] = [0x1000, 0x5000, 0x6000, 0x7000];
  const table = (address: number, entries: readonly bigint[]) =>
    vm.memory.write(address, new Uint8Array(BigUint64Array.from(entries).buffer));
  table(gdt, [0n, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn]);
  table(pml4, [BigInt(pdpt) | 3n]);
  table(
    pdpt,
    [0, 1, 2, 3].map((i) => BigInt(directories + i * 0x1000) | 3n),
  );
  table(
    directories,
    Array.from({ length: 4 * 512 }, (_, i) => (BigInt(i) << 21n) | 0x83n),
  );
  const task = {
    ...FLAT,
    selector: 0,
    kind: 0xb,
    limit: 0x67,
    codeOrData: false,
    big: false,
    granularity: false,
  };
  vcpu.systemRegisters = {
    ...vcpu.systemRegisters,
    ...{
      cs: { ...FLAT, selector: 8, kind: 0xb, long: true, big: false },
      ss: FLAT,
      ds: FLAT,
      es: FLAT,
      fs: FLAT,
      gs: FLAT,
    },
    ...{ tr: task, gdt: { base: BigInt(gdt), limit: 23 }, idt: { base: 0n, limit: 0 } },
    ...{ cr0: 0x8000_0033n, cr3: BigInt(pml4), cr4: 0x620n, efer: 0x500n },
  };
}

/** mov dx, 0x600; mov al, S5 and sleep; out dx, al; hlt */
export const POWER_OFF = [0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xf4];

/** A multiboot 1 program with these instructions, entered in 32-bit protected mode. */
export function multiboot(code: readonly number[]): Buffer {
  const load = 0x10_0000;
  const flags = 0x1_0000; // the header says where everything goes
  const header = [0x1bad_b002, flags, -(0x1bad_b002 + flags) >>> 0, load, load, 0, 0, load + 32];
  return Buffer.concat([new Uint8Array(Uint32Array.from(header).buffer), Buffer.from(code)]);
}

/** A multiboot program that prints its command line on the debug console and powers off. */
export function commandLinePrinter(): Buffer {
  return multiboot([
    ...[0x8b, 0x73, 0x10], // mov esi, [ebx + 16]
    ...[0xac, 0x84, 0xc0, 0x74, 0x04, 0xe6, 0xe9, 0xeb, 0xf7], // lodsb; test al, al; jz on; out 0xe9, al; jmp back
    ...POWER_OFF,
  ]);
}
