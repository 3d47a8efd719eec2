// What is heard on a voice call, measured from its audio: who speaks, since when nobody does, hold,
// overlap, and how far recognition is behind. News comes about once a second; in between the page's
// own clock goes on. Settled news is the last that a line had to tell: the call is over, or waits for
// its carrier. Pure: the time is handed in.

/** Silence is worth a word from here on. */
export const SILENCE_WARNS_MS = 10_000;
/** Silence is dead air from here on. */
export const SILENCE_ALERTS_MS = 20_000;
/** Recognition that is less behind than this keeps up. */
export const BEHIND_FROM_MS = 1500;
// Somebody who spoke is not known to speak still when no news has come for this long.
const NEWS_WITHIN_MS = 5000;

/**
 * @typedef {object} Voice
 * @property {('customer'|'agent')[]} speaking who speaks now
 * @property {boolean} on_hold never of a line that is gone
 * @property {number} silence_ms how long nobody had spoken when the news was made
 * @property {number} overlap_ms how long both spoke at once, over the whole call
 * @property {number} customer_ms speaking time over the whole call
 * @property {number} agent_ms speaking time over the whole call
 * @property {number} customer_interruptions how often the customer cut the agent off
 * @property {number} agent_interruptions how often the agent cut the customer off
 * @property {number} hold_ms over the whole call
 * @property {number} lag_ms how far recognition is behind what was heard
 * @property {boolean} recognised whether a speech model writes a transcript
 * @property {boolean} is_live whether the line goes on behind this news
 * @property {number} heard_at when the news came, by the page's clock
 * @property {number|null} silent_since by the page's clock; null while somebody speaks, on hold, and when the line is gone
 * @property {number|null} hold_since by the page's clock; null when not on hold
 * @property {boolean} has_seen_hold_begin whether `hold_since` is of this hold, not of all holds taken together
 */

/**
 * Takes the news of a `voice` event. `heard_at` is when the page got it; without that, the event's own time counts.
 * @param {Voice|null} before @param {any} event @returns {Voice}
 */
export function hear(before, event) {
  const heard_at = event.heard_at ?? Date.parse(event.at);
  const is_live = event.tentative === true;
  const on_hold = is_live && event.on_hold === true;
  const {
    speaking = [], silence_ms = 0, overlap_ms = 0, customer_ms = 0, agent_ms = 0,
    customer_interruptions = 0, agent_interruptions = 0, hold_ms = 0, lag_ms = 0, recognised = true,
  } = event;
  return {
    speaking, on_hold, silence_ms, overlap_ms, customer_ms, agent_ms, customer_interruptions, agent_interruptions,
    hold_ms, lag_ms, recognised, is_live, heard_at,
    silent_since: is_live ? silentSince(before, { speaking, on_hold, silence_ms, heard_at }) : null,
    ...holdBegun(before, { on_hold, hold_ms, heard_at }),
  };
}

/** News that was long on its way does not set the counter back: the earliest start that was told holds. */
function silentSince(before, { speaking, on_hold, silence_ms, heard_at }) {
  if (on_hold || speaking.length > 0) return null;
  const since = heard_at - silence_ms;
  const isSame = before?.silent_since != null && silence_ms >= before.silence_ms;
  return isSame ? Math.min(before.silent_since, since) : since;
}

function holdBegun(before, { on_hold, hold_ms, heard_at }) {
  if (!on_hold) return { hold_since: null, has_seen_hold_begin: false };
  if (before?.on_hold) return { hold_since: before.hold_since, has_seen_hold_begin: before.has_seen_hold_begin };
  const sinceTold = before === null ? hold_ms : Math.max(0, hold_ms - before.hold_ms);
  return { hold_since: heard_at - sinceTold, has_seen_hold_begin: before !== null };
}

/** Returns how long nobody has spoken, in milliseconds; 0 while somebody does, on hold, and when the line is gone. @param {Voice} voice @param {number} now */
export function silenceMs(voice, now) {
  return voice.silent_since === null ? 0 : Math.max(0, now - voice.silent_since);
}

/** Returns how long the hold lasts, in milliseconds; 0 when not on hold. @param {Voice} voice @param {number} now */
export function holdMs(voice, now) {
  return voice.hold_since === null ? 0 : Math.max(0, now - voice.hold_since);
}

/** Returns whether recognition is worth waiting for. @param {Voice} voice */
export const isBehind = (voice) => voice.is_live && voice.recognised && voice.lag_ms >= BEHIND_FROM_MS;

/**
 * Returns what is to be heard now, and for how long where that matters. `unknown`: the line is gone,
 * or somebody spoke when the last news came, too long ago. Before anybody has spoken nobody is warned.
 * @param {Voice} voice @param {number} now
 * @returns {{kind: 'hold'|'both'|'customer'|'agent'|'quiet'|'warning'|'alert'|'unknown', ms: number}}
 */
export function heardNow(voice, now) {
  if (voice.on_hold) return { kind: 'hold', ms: holdMs(voice, now) };
  const unheard = Math.max(0, now - voice.heard_at);
  if (!voice.is_live || (voice.speaking.length > 0 && unheard >= NEWS_WITHIN_MS)) return { kind: 'unknown', ms: unheard };
  if (voice.speaking.length > 0) return { kind: voice.speaking.length > 1 ? 'both' : voice.speaking[0], ms: 0 };
  const ms = silenceMs(voice, now);
  if (voice.customer_ms + voice.agent_ms === 0) return { kind: 'quiet', ms };
  return { kind: ms >= SILENCE_ALERTS_MS ? 'alert' : ms >= SILENCE_WARNS_MS ? 'warning' : 'quiet', ms };
}
