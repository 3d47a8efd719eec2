// The board's fold: who needs somebody first, and that the order holds. Run: node --test web/test/

import assert from 'node:assert/strict';
import test from 'node:test';

import { RANK_EVERY_MS, act, emptyBoard, lagP95, need } from '../state/board.js';

const start = Date.parse('2026-01-01T00:00:00Z');
const row = (call, fields = {}) => ({ call, agent: 'alice', channel: 'voice', knowledge: ['tel'], started_at: '2026-01-01T00:00:00Z', ...fields });
const emotion = (call, label, valence, trend, at) => ({
  call, seq: 2, at: new Date(at).toISOString(), type: 'emotion', segment: 's1', speaker: 'customer', label, scores: {}, valence, trend,
});
const snapshot = (calls, now = start) => act(emptyBoard(), { do: 'list', calls, isAll: true, now });

test('an angry call whose customer gets worse comes first, a flag before that', () => {
  let state = snapshot([row('a'), row('b'), row('c')]);
  state = act(state, { do: 'receive', lagMs: 1, envelope: emotion('b', 'angry', -1, 'falling', start + 10), now: start + 20 });
  state = act(state, {
    do: 'receive', lagMs: 1, now: start + 30,
    envelope: { call: 'c', seq: 2, at: new Date(start + 20).toISOString(), type: 'alert', kind: 'flag', severity: 'critical', message: 'please' },
  });
  assert.deepEqual(state.order, ['a', 'b', 'c'], 'the order holds at first');
  state = act(state, { do: 'tick', now: start + RANK_EVERY_MS });
  assert.deepEqual(state.order, ['c', 'b', 'a']);
});

test('a closed call leaves, a new one comes in at the end, between two rankings', () => {
  let state = snapshot([row('b'), row('a')]);
  const order = state.order;
  state = act(state, { do: 'receive', lagMs: 1, envelope: { call: 'n', seq: 1, at: new Date(start).toISOString(), type: 'call_opened', agent: 'x', channel: 'chat', knowledge: [] }, now: start + 5 });
  assert.deepEqual(state.order, [...order, 'n']);
  state = act(state, { do: 'receive', lagMs: 1, envelope: { call: order[0], seq: 9, at: new Date(start).toISOString(), type: 'call_closed', reason: 'hangup', duration_ms: 1 }, now: start + 6 });
  assert.deepEqual(state.order, [order[1], 'n']);
});

test('a list adds the last words and keeps what the stream told', () => {
  let state = snapshot([row('a')]);
  state = act(state, { do: 'receive', lagMs: 1, envelope: emotion('a', 'worried', -0.5, 'steady', start), now: start + 1 });
  state = act(state, { do: 'list', calls: [row('a', { last_speaker: 'customer', last_text: 'hello', emotion: { label: 'neutral', valence: 0, trend: 'steady' } })], isAll: false, now: start + 2 });
  assert.equal(state.calls.a.mood.label, 'worried');
  assert.deepEqual(state.calls.a.last, { speaker: 'customer', text: 'hello' });
});

test('a list that was asked for before a call closed does not bring it back', () => {
  const closed = { call: 'a', seq: 9, at: new Date(start).toISOString(), type: 'call_closed', reason: 'hangup', duration_ms: 1 };
  let state = act(snapshot([row('a'), row('b')]), { do: 'receive', lagMs: 1, envelope: closed, now: start + 100 });
  state = act(state, { do: 'list', calls: [row('a'), row('b')], isAll: false, isComplete: true, askedAt: start + 50, now: start + 200 });
  assert.deepEqual([Object.keys(state.calls), state.order], [['b'], ['b']]);
  state = act(state, { do: 'receive', lagMs: 1, envelope: { ...closed, seq: 10, type: 'note', from: 'sam', text: 'late' }, now: start + 300 });
  state = act(state, { do: 'list', calls: [row('a'), row('b')], isAll: true, now: start + 400 });
  assert.deepEqual(Object.keys(state.calls), ['b']);
});

test('a complete list takes away what closed unseen, and nothing that began since it was asked for', () => {
  const opened = { call: 'new', seq: 1, at: new Date(start).toISOString(), type: 'call_opened', agent: 'x', channel: 'chat', knowledge: [] };
  const before = act(snapshot([row('gone'), row('b')]), { do: 'receive', lagMs: 1, envelope: opened, now: start + 100 });
  const polled = (isComplete) => act(before, { do: 'list', calls: [row('b')], isAll: false, isComplete, askedAt: start + 50, now: start + 200 });
  assert.deepEqual(Object.keys(polled(true).calls).sort(), ['b', 'new']);
  assert.deepEqual(Object.keys(polled(false).calls).sort(), ['b', 'gone', 'new']);
});

test('after a reconnect the snapshot says how the customer feels', () => {
  let state = snapshot([row('a', { seq: 1 })]);
  state = act(state, { do: 'receive', lagMs: 1, envelope: emotion('a', 'angry', -1, 'falling', start), now: start + 1 });
  const emotionNow = { label: 'satisfied', valence: 1, trend: 'rising' };
  const later = { seq: 40, emotion: emotionNow, valences: [-1, 0, 1] };
  for (const isAll of [true, false]) {
    const next = act(state, { do: 'list', calls: [row('a', later)], isAll, now: start + 60_000 });
    assert.deepEqual([next.calls.a.mood, next.calls.a.valences], [emotionNow, [-1, 0, 1]]);
  }
  const stale = act(state, { do: 'list', calls: [row('a', { ...later, seq: 1 })], isAll: false, now: start + 2 });
  assert.deepEqual([stale.calls.a.mood.label, stale.calls.a.valences], ['angry', [-1]]);
});

test('alerts fade', () => {
  const call = { ...snapshot([row('a')]).calls.a, alerts: [{ kind: 'term', severity: 'critical', message: '', at: start }] };
  assert.ok(need(call, start) > need(call, start + 60_000));
});

test('the lag is a percentile, and unknown without envelopes', () => {
  assert.equal(lagP95([]), null);
  assert.equal(lagP95(Array.from({ length: 100 }, (_, index) => index)), 95);
});
