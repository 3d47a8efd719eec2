// Numbers and words for people: clocks, shares, plurals, strength. Pure functions.

/** Returns `04:12`, or `1:02:33` from an hour on. @param {number} ms */
export function clock(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const two = (n) => String(n).padStart(2, '0');
  const hours = Math.floor(seconds / 3600);
  const rest = `${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
  return hours > 0 ? `${hours}:${rest}` : rest;
}

/** Returns `0:42`, or `1:02:33` from an hour on. @param {number} ms */
export function timer(ms) {
  return clock(ms).replace(/^0(?=\d:)/, '');
}

/** Returns `1.2 s`, `14 s` from ten seconds on, `1:14` from a minute on. @param {number} ms */
export function span(ms) {
  if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return seconds < 60 ? `${seconds} s` : timer(1000 * seconds);
}

/** Returns `1 call`, `2 calls`. @param {number} count @param {string} one @param {string} [many] */
export function plural(count, one, many = `${one}s`) {
  return `${count.toLocaleString('en')} ${count === 1 ? one : many}`;
}

/** Returns `payment card` for `payment_card`. @param {string} name */
export function words(name) {
  return String(name ?? '').replaceAll('_', ' ');
}

/** Returns the name with a capital. @param {string} name */
export function capital(name) {
  const text = words(name);
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Returns a server's message as a sentence: they are lower case without a full stop. @param {string} message */
export function sentence(message) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?…]$/.test(text) ? text : `${text}.`;
}

/** Returns `12 Nov, 14:05`. @param {string|number|null|undefined} time */
export function moment(time) {
  if (!time) return '';
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? '' : date.toLocaleString('en-GB',
    { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });
}

/** Returns `12 kB`. @param {number} bytes */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1e6) return `${Math.round(bytes / 1000)} kB`;
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/**
 * Returns how good a match is, as a word. Scores compare only with one another, so the measure is
 * the best score seen beside it.
 * @param {number} score @param {number} best
 */
export function strength(score, best) {
  if (!(best > 0)) return 'weak';
  if (score >= 0.75 * best) return 'strong';
  return score >= 0.45 * best ? 'fair' : 'weak';
}

/** The arrow and the word for each trend. */
export const TRENDS = {
  rising: { arrow: '↗', word: 'improving' },
  steady: { arrow: '→', word: 'steady' },
  falling: { arrow: '↘', word: 'getting worse' },
};

/** The tone class of each emotion. The word always stands beside the colour. */
export const TONES = {
  satisfied: 'good',
  neutral: 'plain',
  confused: 'cool',
  sad: 'cool',
  worried: 'warn',
  frustrated: 'warn',
  angry: 'bad',
};

/** The tone class of each severity. */
export const SEVERITY_TONES = { info: 'cool', warning: 'warn', critical: 'bad' };
