// Texts cut into the pieces that a page draws: words, masks, quotes, marks. All offsets count
// Unicode scalar values, as the server does, never UTF-16 units. Pure.

const MASK = '░';

/** @typedef {{key: string, kind: 'word'|'mask', text: string, start: number, end: number, isQuoted: boolean, isSettled: boolean}} Piece */

/**
 * Cuts a draft into words and masks. A word keeps its key while its neighbours change, so a page
 * that draws pieces by key moves nothing that has settled and animates only what is new.
 * @param {string} text the settled text
 * @param {string} tentative what follows while blocks denoise
 * @param {[number, number][]} quotes stretches of both that stand in a card
 * @param {[number, number][]} hidden stretches of `text` that are about to be rewritten: drawn as masks
 * @param {string} [original] the text that is being rewritten: what still ends like it has settled
 * @returns {Piece[]}
 */
export function draftPieces(text, tentative = '', quotes = [], hidden = [], original = '') {
  const settled = Array.from(text);
  const scalars = [...settled, ...Array.from(tentative)];
  const tail = Math.max(settled.length, scalars.length - sameEnd(scalars, Array.from(original)));
  const isSettled = (at) => at < settled.length || at >= tail;
  const within = (spans, at) => spans.some(([start, end]) => at >= start && at < end);
  /** @type {Piece[]} */
  const pieces = [];
  const seen = new Map();
  const keyOf = (word) => {
    const count = seen.get(word) ?? 0;
    seen.set(word, count + 1);
    return `${word}#${count}`;
  };
  const isEdge = (at) => at === settled.length || at === tail
    || within(quotes, at) !== within(quotes, at - 1)
    || within(hidden, at) !== within(hidden, at - 1);

  let start = 0;
  while (start < scalars.length) {
    let end = start + 1;
    if (scalars[start] === MASK) {
      pieces.push({ key: keyOf(MASK), kind: 'mask', text: MASK, start, end, isQuoted: false, isSettled: false });
      start = end;
      continue;
    }
    // A word takes the white space behind it along, so that quotes underline in one stroke.
    while (end < scalars.length && scalars[end] !== MASK && !isEdge(end)
      && !(isSpace(scalars[end - 1]) && !isSpace(scalars[end]))) end += 1;
    const word = scalars.slice(start, end).join('');
    pieces.push({
      key: keyOf(word.trim()),
      kind: start < settled.length && within(hidden, start) ? 'mask' : 'word',
      text: word,
      start,
      end,
      isQuoted: within(quotes, start),
      isSettled: isSettled(start),
    });
    start = end;
  }
  return pieces;
}

/**
 * Returns the quotes that an edited text still has, word for word, where it has them.
 * @param {string} text @param {[number, number][]} quotes @param {string} edited @returns {[number, number][]}
 */
export function quotesKept(text, quotes, edited) {
  const scalars = Array.from(text);
  const kept = [];
  for (const [start, end] of quotes) {
    const quote = scalars.slice(start, end).join('');
    const at = edited.indexOf(quote);
    if (at < 0 || quote === '') continue;
    const from = Array.from(edited.slice(0, at)).length;
    kept.push(/** @type {[number, number]} */ ([from, from + end - start]));
  }
  return kept;
}

/** Returns how many scalars two texts have in common at their ends. */
function sameEnd(one, other) {
  let count = 0;
  while (count < one.length && count < other.length && one.at(-1 - count) === other.at(-1 - count)) count += 1;
  return count;
}

const isSpace = (scalar) => /\s/u.test(scalar);

/**
 * Returns the stretch that the pieces from `first` to `last` cover, without the space at its ends.
 * @param {Piece[]} pieces @param {number} first @param {number} last @returns {[number, number]|null}
 */
export function spanOf(pieces, first, last) {
  const chosen = pieces.slice(first, last + 1).filter((piece) => piece.kind === 'word' && piece.isSettled);
  if (chosen.length === 0) return null;
  const lead = chosen[0].text.length - chosen[0].text.trimStart().length;
  const tail = Array.from(chosen.at(-1).text).length - Array.from(chosen.at(-1).text.trimEnd()).length;
  const span = /** @type {[number, number]} */ ([chosen[0].start + lead, chosen.at(-1).end - tail]);
  return span[1] > span[0] ? span : null;
}

/**
 * Cuts a text at its highlighted stretches.
 * @param {string} text @param {[number, number][]} highlights
 * @returns {{text: string, isMarked: boolean}[]}
 */
export function highlighted(text, highlights = []) {
  const scalars = Array.from(text);
  const parts = [];
  let at = 0;
  for (const [start, end] of [...highlights].sort((a, b) => a[0] - b[0])) {
    const from = Math.max(start, at);
    const to = Math.min(end, scalars.length);
    if (to <= from) continue;
    if (from > at) parts.push({ text: scalars.slice(at, from).join(''), isMarked: false });
    parts.push({ text: scalars.slice(from, to).join(''), isMarked: true });
    at = to;
  }
  if (at < scalars.length) parts.push({ text: scalars.slice(at).join(''), isMarked: false });
  return parts;
}

// What the redactor leaves behind: `[payment card]`, `[e-mail]`, ….
const PLACEHOLDER = /\[(?:[a-z][a-z-]*)(?: [a-z-]+){0,3}\]/g;

/**
 * Cuts a redacted text into plain stretches, placeholders of what was removed, and sensitive terms.
 * @param {string} text @param {import('./call.js').Mark[]} marks
 * @returns {{text: string, kind: 'plain'|'removed'|'term', mark?: import('./call.js').Mark}[]}
 */
export function markedText(text, marks = []) {
  const scalars = Array.from(text);
  const parts = [];
  let at = 0;
  const plain = (end) => {
    if (end <= at) return;
    const stretch = scalars.slice(at, end).join('');
    let last = 0;
    for (const match of stretch.matchAll(PLACEHOLDER)) {
      if (match.index > last) parts.push({ text: stretch.slice(last, match.index), kind: 'plain' });
      parts.push({ text: match[0], kind: 'removed' });
      last = match.index + match[0].length;
    }
    if (last < stretch.length) parts.push({ text: stretch.slice(last), kind: 'plain' });
  };
  for (const mark of marks) {
    if (mark.start < at || mark.end > scalars.length || mark.end <= mark.start) continue;
    const term = scalars.slice(mark.start, mark.end).join('');
    if (/^\[.*\]$/.test(term)) continue; // A placeholder is recognised by its form.
    plain(mark.start);
    parts.push({ text: term, kind: 'term', mark });
    at = mark.end;
  }
  plain(scalars.length);
  return parts;
}
