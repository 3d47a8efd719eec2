// All open calls as the supervisors' stream tells them, and who needs somebody first. Pure.

import { hear, silenceMs } from './voice.js';

/**
 * @typedef {object} BoardCall
 * @property {string} call
 * @property {number} seq the last settled number that was told of it
 * @property {number} addedAt when this page heard of it first
 * @property {string} agent
 * @property {string} [customer]
 * @property {string} channel
 * @property {string[]} knowledge
 * @property {number} openedAt
 * @property {number} heardAt when the last words were said
 * @property {{speaker: string, text: string}|null} last
 * @property {{label: string, valence: number, trend: string}|null} mood
 * @property {number[]} valences oldest first
 * @property {{kind: string, severity: string, message: string, at: number}[]} alerts
 * @property {number} alertCount of the whole call
 * @property {string|null} flag what the agent wants of a supervisor
 * @property {boolean} isNoted a supervisor has whispered
 * @property {string|null} draft state of the newest draft
 * @property {import('./voice.js').Voice|null} voice what its audio tells; null for a call that is fed with text
 */
/**
 * @typedef {object} BoardState
 * @property {Record<string, BoardCall>} calls
 * @property {string[]} closed the calls that ended last: a list that was asked for before may still name them
 * @property {string[]} order as shown
 * @property {number} rankedAt
 * @property {number[]} lags of the last live envelopes, in milliseconds
 * @property {{at: number, calls: number, valence: number|null, upset: number}[]} history
 */

/** The order stays for this long. */
export const RANK_EVERY_MS = 10_000;
const VALENCES_KEPT = 40;
const LAGS_KEPT = 200;
const ALERTS_KEPT = 20;
const HISTORY_KEPT = 240;
const CLOSED_KEPT = 2000;
const SILENCE_AFTER_MS = 20_000;

/** @returns {BoardState} */
export const emptyBoard = () => ({ calls: {}, closed: [], order: [], rankedAt: 0, lags: [], history: [] });

/** @param {BoardState} state @param {{do: string, [field: string]: any}} action @returns {BoardState} */
export function act(state, action) {
  switch (action.do) {
    case 'list':
      return ranked(list(state, action), action.now);
    case 'receive':
      return ranked(receive(state, action.envelope, action.lagMs, action.now), action.now);
    case 'tick':
      return sampled(ranked(state, action.now), action.now);
    default:
      return state;
  }
}

/**
 * Takes a list of open calls: the stream's snapshot (`isAll`), or the answer to `GET /v1/calls`,
 * which was asked for at `askedAt` and, if `isComplete`, names all that were open then.
 */
function list(state, { calls: rows, isAll, isComplete = false, askedAt = 0, now }) {
  const isOpen = (id) => !state.closed.includes(id);
  const named = new Set(rows.map((row) => row.call));
  // A call that began while the list was on its way is not in it.
  const stays = (call) => !isAll && (!isComplete || named.has(call.call) || call.addedAt >= askedAt);
  const calls = Object.fromEntries(Object.entries(state.calls).filter(([, call]) => stays(call)));
  for (const row of rows) {
    if (!isOpen(row.call)) continue;
    calls[row.call] = merged(state.calls[row.call] ?? blank(row.call, now), row, isAll, now);
  }
  return { ...state, calls };
}

function blank(call, now) {
  return {
    call, seq: 0, addedAt: now, agent: '', channel: 'voice', knowledge: [], openedAt: 0, heardAt: 0, last: null, mood: null,
    valences: [], alerts: [], alertCount: 0, flag: null, isNoted: false, draft: null, voice: null,
  };
}

/**
 * Adds what a row of a list knows; a field that it lacks stays. What the stream told stays too,
 * unless the row is newer, as every row of a snapshot is: the stream was cut off before it.
 */
function merged(call, row, isAll, now) {
  const time = (value) => (value ? new Date(value).getTime() : 0);
  const isNewer = isAll || (row.seq ?? 0) > call.seq;
  const isNews = row.last_text && row.last_text !== call.last?.text;
  const newest = (told, listed) => (isNewer ? listed ?? told : told ?? listed) ?? null;
  return {
    ...call,
    seq: Math.max(call.seq, row.seq ?? 0),
    agent: row.agent ?? call.agent,
    customer: row.customer ?? call.customer,
    channel: row.channel ?? call.channel,
    knowledge: row.knowledge ?? call.knowledge,
    openedAt: time(row.started_at) || call.openedAt,
    heardAt: isNews ? now : call.heardAt,
    last: isNews ? { speaker: row.last_speaker ?? 'customer', text: row.last_text } : call.last,
    mood: newest(call.mood, row.emotion),
    valences: newest(call.valences.length ? call.valences : null, row.valences?.length ? row.valences : null) ?? [],
    alertCount: Math.max(call.alertCount, row.counts?.alerts ?? 0),
    isNoted: call.isNoted || (row.counts?.notes ?? 0) > 0,
    flag: newest(call.flag, row.flag),
  };
}

function receive(state, envelope, lagMs, now) {
  const at = new Date(envelope.at).getTime();
  const lags = [...state.lags, Math.max(0, lagMs)].slice(-LAGS_KEPT);
  const id = envelope.call;
  if (envelope.type === 'call_closed') {
    const { [id]: _closed, ...calls } = state.calls;
    return { ...state, lags, calls, closed: [...state.closed, id].slice(-CLOSED_KEPT) };
  }
  if (state.closed.includes(id)) return { ...state, lags };
  const before = state.calls[id] ?? blank(id, now);
  const call = { ...folded(before, envelope, at, now), seq: Math.max(before.seq, envelope.seq ?? 0) };
  return { ...state, lags, calls: { ...state.calls, [id]: call } };
}

function folded(call, event, at, now) {
  switch (event.type) {
    case 'call_opened':
      return { ...call, agent: event.agent, customer: event.customer, channel: event.channel, knowledge: event.knowledge ?? [], openedAt: call.openedAt || at, heardAt: at };
    case 'segment':
      return { ...call, heardAt: at, last: { speaker: event.speaker, text: event.text } };
    case 'emotion': {
      if (event.speaker !== 'customer') return call;
      const { label, valence, trend } = event;
      return { ...call, heardAt: at, mood: { label, valence, trend }, valences: [...call.valences, valence].slice(-VALENCES_KEPT) };
    }
    case 'speech_rate':
      return { ...call, heardAt: at };
    case 'alert': {
      const { kind, severity, message } = event;
      const alerts = [...call.alerts, { kind, severity, message, at }].slice(-ALERTS_KEPT);
      return { ...call, alerts, alertCount: call.alertCount + 1, flag: kind === 'flag' ? message : call.flag };
    }
    case 'note':
      return { ...call, isNoted: true };
    case 'draft':
      return { ...call, draft: event.state };
    case 'voice':
      return { ...call, voice: hear(call.voice, { ...event, heard_at: now }) };
    default:
      return call;
  }
}

const MOOD_NEED = { angry: 50, frustrated: 32, worried: 18, sad: 18, confused: 12, neutral: 0, satisfied: 0 };
const ALERT_NEED = { critical: 30, warning: 12, info: 2 };
const ALERT_FADES_MS = 120_000;

/**
 * Returns how much a call needs somebody: the agent's flag, then the customer's emotion and where
 * it goes, fresh alerts, silence, and a little for age.
 * @param {BoardCall} call @param {number} now
 */
export function need(call, now) {
  let points = call.flag !== null ? 60 : 0;
  if (call.mood) points += MOOD_NEED[call.mood.label] + ({ falling: 12, rising: -8, steady: 0 }[call.mood.trend] ?? 0);
  for (const alert of call.alerts) {
    const freshness = Math.max(0, 1 - (now - alert.at) / ALERT_FADES_MS);
    points += (ALERT_NEED[alert.severity] ?? 0) * freshness;
  }
  points += Math.min(20, silence(call, now) / 3000);
  if (call.openedAt) points += Math.min(8, (now - call.openedAt) / 120_000);
  return points;
}

/**
 * Returns how long nobody has spoken, in milliseconds, once that is worth a word: as measured from
 * the audio, without that since the last words.
 * @param {BoardCall} call @param {number} now
 */
export function silence(call, now) {
  const quiet = call.voice?.is_live ? silenceMs(call.voice, now) : call.heardAt ? now - call.heardAt : 0;
  return quiet > SILENCE_AFTER_MS ? quiet : 0;
}

/** Returns whether the customer is frustrated or angry. @param {BoardCall} call */
export const isUpset = (call) => call.mood?.label === 'frustrated' || call.mood?.label === 'angry';

/** Keeps the order for ten seconds at a time; in between new calls come in at the end. */
function ranked(state, now) {
  const ids = Object.keys(state.calls);
  if (now - state.rankedAt < RANK_EVERY_MS && state.order.length > 0) {
    const kept = state.order.filter((id) => state.calls[id]);
    if (kept.length === state.order.length && kept.length === ids.length) return state;
    return { ...state, order: [...kept, ...ids.filter((id) => !kept.includes(id))] };
  }
  const points = new Map(ids.map((id) => [id, need(state.calls[id], now)]));
  const order = ids.sort((a, b) => points.get(b) - points.get(a) || a.localeCompare(b));
  return { ...state, order, rankedAt: now };
}

/** Adds a point to the chart's history. */
function sampled(state, now) {
  const calls = Object.values(state.calls);
  const moods = calls.filter((call) => call.mood).map((call) => call.mood.valence);
  const valence = moods.length ? moods.reduce((sum, value) => sum + value, 0) / moods.length : null;
  const point = { at: now, calls: calls.length, valence, upset: calls.filter(isUpset).length };
  return { ...state, history: [...state.history, point].slice(-HISTORY_KEPT) };
}

/** Returns the lag that 95 of 100 envelopes stay under, or null before the first. @param {number[]} lags */
export function lagP95(lags) {
  if (lags.length === 0) return null;
  const sorted = [...lags].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(0.95 * sorted.length))];
}
