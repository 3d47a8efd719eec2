// Shows quick changes one after the other, slowly enough to be seen. A block denoises in a tenth
// of a second: drawn as fast as it comes, nobody would see which words settled first.

const STEP_MS = 45;
// With this many waiting every second one is left out: the eye lags by half a second at most.
const MOST_WAITING = 12;

/** @template T @param {(item: T) => void} show */
export function paced(show) {
  /** @type {T[]} */
  let waiting = [];
  let timer = 0;
  const still = matchMedia('(prefers-reduced-motion: reduce)');
  const next = () => {
    timer = 0;
    if (waiting.length === 0) return;
    show(waiting.shift());
    timer = setTimeout(next, STEP_MS);
  };
  return {
    /** Shows it in its turn. @param {T} item */
    push(item) {
      if (still.matches || document.hidden) return this.skipTo(item);
      waiting.push(item);
      if (waiting.length > MOST_WAITING) waiting = waiting.filter((_item, index) => (waiting.length - index) % 2 === 1);
      if (timer === 0) next();
      return undefined;
    },
    /** Shows it now, and nothing of what waited. @param {T} item */
    skipTo(item) {
      clearTimeout(timer);
      timer = 0;
      waiting = [];
      show(item);
    },
  };
}
