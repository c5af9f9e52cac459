/** When what happened, for people. */

/** A list of moments since it was made. */
export class Timeline {
  readonly #start = performance.now();
  readonly #moments: [milliseconds: number, what: string][] = [];

  /** Now, in milliseconds since the start. */
  now(): number {
    return performance.now() - this.#start;
  }

  /** Notes that something happens now, or happened then. */
  mark(what: string, at: number = this.now()): void {
    this.#moments.push([at, what]);
  }

  /** As lines of text, in order of time. */
  toString(): string {
    const moments = [...this.#moments].sort(([a], [b]) => a - b);
    return moments.map(([ms, what]) => `  ${(ms / 1000).toFixed(3).padStart(8)} s  ${what}`).join('\n');
  }
}
