// All open calls as the supervisors' stream tells them, and who needs somebody first. Pure.

/**
 * @typedef {object} BoardCall
 * @property {string} call
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
 */
/**
 * @typedef {object} BoardState
 * @property {Record<string, BoardCall>} calls
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
const SILENCE_AFTER_MS = 20_000;

/** @returns {BoardState} */
export const emptyBoard = () => ({ calls: {}, order: [], rankedAt: 0, lags: [], history: [] });

/** @param {BoardState} state @param {{do: string, [field: string]: any}} action @returns {BoardState} */
export function act(state, action) {
  switch (action.do) {
    case 'list':
      return ranked(list(state, action.calls, action.isAll, action.now), action.now);
    case 'receive':
      return ranked(receive(state, action.envelope, action.lagMs), action.now);
    case 'tick':
      return sampled(ranked(state, action.now), action.now);
    default:
      return state;
  }
}

/** Takes a list of open calls: the stream's snapshot, or the answer to `GET /v1/calls`. */
function list(state, rows, isAll, now) {
  const calls = isAll ? {} : { ...state.calls };
  for (const row of rows) {
    const id = row.call;
    calls[id] = merged(state.calls[id] ?? blank(id), row, now);
  }
  return { ...state, calls };
}

function blank(call) {
  return {
    call, agent: '', channel: 'voice', knowledge: [], openedAt: 0, heardAt: 0, last: null, mood: null,
    valences: [], alerts: [], alertCount: 0, flag: null, isNoted: false, draft: null,
  };
}

/** Adds what a row of a list knows; a field that it lacks stays. */
function merged(call, row, now) {
  const time = (value) => (value ? new Date(value).getTime() : 0);
  const isNews = row.last_text && row.last_text !== call.last?.text;
  return {
    ...call,
    agent: row.agent ?? call.agent,
    customer: row.customer ?? call.customer,
    channel: row.channel ?? call.channel,
    knowledge: row.knowledge ?? call.knowledge,
    openedAt: time(row.started_at) || call.openedAt,
    heardAt: isNews ? now : call.heardAt,
    last: isNews ? { speaker: row.last_speaker ?? 'customer', text: row.last_text } : call.last,
    mood: call.mood ?? row.emotion ?? null,
    valences: call.valences.length ? call.valences : (row.valences ?? []),
    alertCount: Math.max(call.alertCount, row.counts?.alerts ?? 0),
    isNoted: call.isNoted || (row.counts?.notes ?? 0) > 0,
    flag: call.flag ?? row.flag ?? null,
  };
}

function receive(state, envelope, lagMs) {
  const at = new Date(envelope.at).getTime();
  const lags = [...state.lags, Math.max(0, lagMs)].slice(-LAGS_KEPT);
  const id = envelope.call;
  if (envelope.type === 'call_closed') {
    const { [id]: _closed, ...calls } = state.calls;
    return { ...state, lags, calls };
  }
  const before = state.calls[id] ?? blank(id);
  return { ...state, lags, calls: { ...state.calls, [id]: folded(before, envelope, at) } };
}

function folded(call, event, at) {
  switch (event.type) {
    case 'call_opened':
      return { ...call, agent: event.agent, customer: event.customer, channel: event.channel, knowledge: event.knowledge ?? [], openedAt: at, heardAt: at };
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

/** Returns how long nobody has spoken, in milliseconds, once that is worth a word. @param {BoardCall} call @param {number} now */
export function silence(call, now) {
  const quiet = call.heardAt ? now - call.heardAt : 0;
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
