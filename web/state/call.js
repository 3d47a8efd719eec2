// A call as its events tell it: the fold. "Partial replaces, final stays": a segment being
// recognised and a draft being denoised follow the same rule. Pure; no clock, no network, no page.

import { hear } from './voice.js';
import { tick } from './checklist.js';

/** @typedef {{id: string, speaker: 'customer'|'agent', text: string, start_ms: number, end_ms: number, final: boolean}} Segment */
/** @typedef {{category: string, term: string, start: number, end: number, severity: string, action: string}} Mark */
/** @typedef {{segment: string, label: string, scores: Record<string, number>, valence: number, trend: string, at_ms: number}} Mood */
/** @typedef {{key: string, id: string, article: string, title: string, passage: string, highlights: [number, number][], score: number, base: string, version: number, round: number, rank: number}} Card */
/**
 * @typedef {object} Draft
 * @property {string} id
 * @property {string} text
 * @property {string} [tentative_text]
 * @property {string} state
 * @property {string[]} cards the keys of the cards it rests on
 * @property {[number, number][]} quotes
 * @property {number} steps
 * @property {number} tokens
 * @property {string} [error]
 * @property {string} started_at
 * @property {string} at
 * @property {string} [verdict]
 * @property {string} [used_text] what the agent made of it
 * @property {{text: string, verdict?: string, used_text?: string}} [original] what stood before a rewrite, while that is under way
 */
/**
 * @typedef {object} CallState
 * @property {string} call
 * @property {number} seq the number of the last settled envelope
 * @property {{agent: string, customer?: string, channel: string, language: string, knowledge: string[], at: string}|null} opened
 * @property {Segment[]} segments in the order of their start
 * @property {import('./checklist.js').Ticks} ticks what the agent has said of what every call needs
 * @property {Record<string, Mark[]>} marks by segment
 * @property {Mood[]} moods oldest first
 * @property {Record<string, any>} rates by speaker
 * @property {import('./voice.js').Voice|null} voice what its audio tells; null for a call that is fed with text
 * @property {{kind: string, severity: string, message: string, segment?: string, at: string, seq: number}[]} alerts
 * @property {{from: string, text: string, at: string, seq: number}[]} notes
 * @property {Card[]} cards in the order they first came
 * @property {number} rounds how many times cards were pushed
 * @property {Draft[]} drafts in the order they were begun
 * @property {{text: string, disposition: string, topics: string[]}|null} summary
 * @property {{reason: string, duration_ms: number}|null} closed
 */

/** Returns a call of which nothing is known yet. @param {string} call @returns {CallState} */
export function emptyCall(call) {
  return {
    call, seq: 0, opened: null, segments: [], ticks: {}, marks: {}, moods: [], rates: {}, voice: null,
    alerts: [], notes: [], cards: [], rounds: 0, drafts: [], summary: null, closed: null,
  };
}

/**
 * Takes one envelope. A settled one that was seen before changes nothing, so that a reconnect may repeat.
 * @param {CallState} state @param {any} envelope @returns {CallState}
 */
export function receive(state, envelope) {
  if (envelope.tentative) return fold(state, envelope);
  if (envelope.seq <= state.seq) return state;
  return { ...fold(state, envelope), seq: envelope.seq };
}

/** Returns whether settled envelopes were missed before this one. @param {CallState} state @param {any} envelope */
export function isGap(state, envelope) {
  return !envelope.tentative && envelope.seq > state.seq + 1;
}

/** @param {CallState} state @param {any} event @returns {CallState} */
function fold(state, event) {
  switch (event.type) {
    case 'call_opened': {
      const { agent, customer, channel, language, knowledge, at } = event;
      return { ...state, opened: { agent, customer, channel, language, knowledge: knowledge ?? [], at } };
    }
    case 'segment':
      return hearSegment(state, event);
    case 'emotion':
      return event.speaker === 'customer' ? { ...state, moods: placeMood(state, event) } : state;
    case 'speech_rate':
      return { ...state, rates: { ...state.rates, [event.speaker]: event } };
    case 'voice':
      return { ...state, voice: hear(state.voice, event) };
    case 'sensitive': {
      const before = state.marks[event.segment] ?? [];
      const marks = [...before.filter((mark) => mark.start !== event.start || mark.category !== event.category), event]
        .sort((a, b) => a.start - b.start);
      return { ...state, marks: { ...state.marks, [event.segment]: marks } };
    }
    case 'alert':
      return { ...state, alerts: [...state.alerts, event] };
    case 'note':
      return { ...state, notes: [...state.notes, event] };
    case 'cards':
      return { ...state, rounds: state.rounds + 1, cards: placeCards(state.cards, event.cards, state.rounds + 1) };
    case 'draft':
      return { ...state, drafts: placeDraft(state, event) };
    case 'draft_judged':
      return {
        ...state,
        drafts: state.drafts.map((draft) => draft.id === event.id
          ? { ...draft, verdict: event.verdict, used_text: event.text } : draft),
      };
    case 'summary':
      return { ...state, summary: { text: event.text, disposition: event.disposition, topics: event.topics ?? [] } };
    case 'call_closed':
      return {
        ...state,
        closed: { reason: event.reason, duration_ms: event.duration_ms },
        segments: state.segments.filter((segment) => segment.final),
      };
    default:
      return state; // A newer server may say more than this page knows.
  }
}

/**
 * A final segment that comes again was revised: what was read from its old words, or from the wrong
 * speaker, goes.
 * @param {CallState} state @param {any} event @returns {CallState}
 */
function hearSegment(state, event) {
  const { id, speaker, text } = event;
  const before = state.segments.find((other) => other.id === id);
  const segments = placeSegment(state.segments, event);
  if (segments === state.segments) return state;
  let { ticks, marks, moods } = state;
  if (before?.final && before.text !== text) {
    marks = { ...marks };
    delete marks[id];
  }
  if (before?.final && before.speaker !== speaker) {
    moods = moods.filter((mood) => mood.segment !== id);
    ticks = Object.fromEntries(Object.entries(ticks).filter(([, ticked]) => ticked.segment !== id));
    ticks = segments.reduce(tick, ticks);
  }
  return { ...state, segments, marks, moods, ticks: tick(ticks, event) };
}

/**
 * A partial never replaces a final, and goes when it comes to nothing. One that came to nothing
 * unsaid goes with the speaker's next final: people finish their turns in order.
 * @param {Segment[]} known @param {any} event
 */
function placeSegment(known, event) {
  const { id, speaker, text, start_ms, end_ms } = event;
  const segment = { id, speaker, text, start_ms, end_ms, final: event.final };
  const isDead = (other) => !other.final && other.id !== id && other.speaker === speaker && other.end_ms <= start_ms;
  const segments = segment.final && known.some(isDead) ? known.filter((other) => !isDead(other)) : known;
  const at = segments.findIndex((other) => other.id === id);
  const isNothing = !segment.final && text.trim() === '';
  if (at >= 0) {
    if (segments[at].final && !segment.final) return segments;
    return isNothing ? segments.toSpliced(at, 1) : segments.with(at, segment);
  }
  if (isNothing) return segments;
  let place = segments.length;
  while (place > 0 && segments[place - 1].start_ms > start_ms) place -= 1;
  return segments.toSpliced(place, 0, segment);
}

/** @param {CallState} state @param {any} event */
function placeMood(state, event) {
  const { segment, label, scores, valence, trend } = event;
  const at_ms = state.segments.find((other) => other.id === segment)?.end_ms ?? state.moods.at(-1)?.at_ms ?? 0;
  return [...state.moods.filter((mood) => mood.segment !== segment), { segment, label, scores, valence, trend, at_ms }];
}

/** Returns what names a card within a call: bases may use the same ids. @param {{base: string, id: string}} card */
export const cardKey = ({ base, id }) => `${base}/${id}`;

/** @param {Card[]} cards @param {any[]} pushed @param {number} round */
function placeCards(cards, pushed, round) {
  const next = [...cards];
  pushed.forEach((card, rank) => {
    const placed = { ...card, key: cardKey(card), highlights: card.highlights ?? [], round, rank };
    const at = next.findIndex((other) => other.key === placed.key);
    if (at >= 0) next[at] = placed;
    else next.push(placed);
  });
  return next;
}

/**
 * Returns the keys of the cards that a draft names by id alone: of two with one id, the one that
 * was pushed last, as the draft was written from that.
 * @param {Card[]} cards @param {string[]} ids
 */
function keysOf(cards, ids) {
  const newest = (id) => cards.filter((card) => card.id === id).sort((a, b) => b.round - a.round || a.rank - b.rank)[0];
  return [...new Set(ids)].map((id) => newest(id)?.key).filter(Boolean);
}

/** @param {CallState} state @param {any} event */
function placeDraft({ drafts, cards: pushed }, event) {
  const { id, text, tentative_text, state, cards, quotes, steps, tokens, error, at } = event;
  const draft = { id, text, tentative_text, state, cards: keysOf(pushed, cards ?? []), quotes: quotes ?? [], steps, tokens, error, at, started_at: at };
  const index = drafts.findIndex((other) => other.id === id);
  if (index < 0) return [...drafts, draft];
  const before = drafts[index];
  // A rewrite of the same draft starts a new clock, and takes the verdict away unless it comes to nothing.
  const isRestart = before.state !== 'writing' && state === 'writing';
  const stood = before.original ?? before;
  const { verdict, used_text } = stood;
  if (state === 'writing') {
    draft.started_at = isRestart ? at : before.started_at;
    const original = isRestart ? { text: before.text, verdict: before.verdict, used_text: before.used_text } : before.original;
    return drafts.with(index, { ...draft, original });
  }
  // In the log a rewrite follows the finished draft at once: how long it took is not told there.
  if (before.state === 'writing') draft.started_at = before.started_at;
  return drafts.with(index, stood.text === text ? { ...draft, verdict, used_text } : draft);
}

/** Returns the draft to show: the newest. @param {CallState} state */
export const latestDraft = (state) => state.drafts.at(-1) ?? null;

/** Returns the draft's text as it stands: of one that was edited, what the agent made of it. @param {Draft} draft */
export const draftText = (draft) => (draft.verdict === 'edited' && draft.used_text) || draft.text;

/** Returns the customer's latest mood. @param {CallState} state */
export const latestMood = (state) => state.moods.at(-1) ?? null;

/** Returns how long the call has run, by its last word. @param {CallState} state */
export function lastSpokenMs(state) {
  return state.segments.reduce((last, segment) => Math.max(last, segment.end_ms), 0);
}

/**
 * Returns each speaker's share of the speaking time in percent, or null before anybody spoke: as
 * measured from the audio, without that by the times of the segments.
 * @param {CallState} state
 */
export function talkShare(state) {
  const spoken = state.voice ? { agent: state.voice.agent_ms, customer: state.voice.customer_ms } : segmentTimes(state.segments);
  const total = spoken.agent + spoken.customer;
  if (total === 0) return null;
  const agent = Math.round((100 * spoken.agent) / total);
  return { agent, customer: 100 - agent };
}

/** @param {Segment[]} segments */
function segmentTimes(segments) {
  const spoken = { agent: 0, customer: 0 };
  for (const segment of segments) {
    if (segment.final) spoken[segment.speaker] += Math.max(0, segment.end_ms - segment.start_ms);
  }
  return spoken;
}

// Alerts of the audio that the page does not show by itself.
const LINE_ALERTS = ['interruption', 'raised_voice', 'carrier'];

/**
 * Returns the newest alert of the line that no line of the transcript shows, if it was raised within `within_ms`.
 * @param {CallState} state @param {number} now @param {number} within_ms
 */
export function lineAlert(state, now, within_ms) {
  const alert = state.alerts.findLast((other) => LINE_ALERTS.includes(other.kind)
    && !state.segments.some((segment) => segment.id === other.segment));
  return alert && now - new Date(alert.at).getTime() < within_ms ? alert : null;
}

/** Returns whether the agent has asked for the supervisor. @param {CallState} state */
export const isFlagged = (state) => state.alerts.some((alert) => alert.kind === 'flag');
