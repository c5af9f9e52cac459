/** Colours and tables for terminals; plain text everywhere else. */
import { styleText } from 'node:util';

type Format = Parameters<typeof styleText>[0];

/** `text` in a colour, where `stream` shows colours. */
export function paint(stream: { readonly isTTY?: boolean }, format: Format, text: string): string {
  const wanted = stream.isTTY === true && !process.env['NO_COLOR'];
  // Nodes before 20.12 have no styleText.
  return wanted && typeof styleText === 'function' ? styleText(format, text) : text;
}

/** Rows in columns. Columns of numbers are given by `right`. */
export function table(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const columns = Math.max(0, ...rows.map((row) => row.length));
  const widths = Array.from({ length: columns }, (_, i) =>
    Math.max(...rows.map((row) => row[i]?.length ?? 0)),
  );
  const pad = (cell: string, i: number) =>
    right.includes(i) ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0);
  return rows.map((row) => `  ${row.map(pad).join('  ')}`.trimEnd()).join('\n');
}
