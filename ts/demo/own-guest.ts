/** The guest of squib's own that ships in the package. */
import { join } from 'node:path';
import { packageRoot } from '../native.cjs';

/** Its file: a multiboot program that needs no operating system. */
export function ownGuest(): string {
  return join(packageRoot(), 'dist/guests/hello.elf');
}
