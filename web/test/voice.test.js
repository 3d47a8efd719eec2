// What is heard on a voice call, revisions of what was said, and partials of two people at once.
// Run: node --test web/test/

import assert from 'node:assert/strict';
import test from 'node:test';

import { act, emptyBoard, need, silence } from '../state/board.js';
import { cutOffs } from '../state/overlaps.js';
import { emptyCall, isGap, lineAlert, receive, talkShare } from '../state/call.js';
import { heardNow, holdMs, isBehind, silenceMs } from '../state/voice.js';
import { span, timer } from '../text.js';

const start = Date.parse('2026-01-01T00:00:00Z');
const iso = (ms) => new Date(start + ms).toISOString();
/** News that the page got `ms` after the start. */
const news = (ms, fields = {}) => ({
  call: 'c', seq: 0, at: iso(ms), tentative: true, type: 'voice', heard_at: start + ms, speaking: [], on_hold: false, silence_ms: 0,
  overlap_ms: 0, customer_ms: 3000, agent_ms: 1000, customer_interruptions: 0, agent_interruptions: 0, hold_ms: 0, lag_ms: 0, recognised: true, ...fields,
});
const segment = (fields) => ({
  call: 'c', at: iso(0), type: 'segment', id: 's1', speaker: 'customer', text: 'hi', start_ms: 0, end_ms: 1000, final: true, ...fields,
});
const fold = (...envelopes) => envelopes.reduce((state, envelope) => receive(state, envelope), emptyCall('c'));
const heard = (ms, ...envelopes) => heardNow(fold(...envelopes).voice, start + ms);
const voiceOf = (...envelopes) => fold(...envelopes).voice;

test('a call that is fed with text has no voice, and its share is of its segments', () => {
  const state = fold(segment({ seq: 1, speaker: 'agent', end_ms: 3000 }), segment({ seq: 2, id: 's2', start_ms: 3000, end_ms: 4000 }));
  assert.equal(state.voice, null);
  assert.deepEqual(talkShare(state), { agent: 75, customer: 25 });
});

test('the last news replaces all before it, and leaves no gap', () => {
  const state = fold(segment({ seq: 1 }), news(0, { seq: 1, speaking: ['customer'], agent_ms: 0 }), news(1000, { seq: 1, speaking: ['agent'], agent_ms: 700 }));
  assert.deepEqual([state.voice.speaking, state.voice.agent_ms, state.seq], [['agent'], 700, 1]);
  assert.ok(!isGap(state, news(2000, { seq: 1 })));
  const settled = { ...news(3000, { seq: 2, agent_ms: 900 }), tentative: undefined };
  assert.deepEqual([receive(state, settled).voice.agent_ms, receive(state, settled).seq], [900, 2]);
});

test('news without the time when it came counts from its own', () => {
  const { heard_at: _none, ...settled } = news(4000, { seq: 1, tentative: undefined });
  assert.equal(voiceOf(settled).heard_at, start + 4000);
});

test('fields that a server leaves out are nothing, not a fault', () => {
  const state = fold({ call: 'c', seq: 0, at: iso(0), tentative: true, type: 'voice' });
  assert.deepEqual(heardNow(state.voice, start + 3000), { kind: 'quiet', ms: 3000 });
  assert.deepEqual([talkShare(state), state.voice.recognised, isBehind(state.voice)], [null, true, false]);
});

test('who speaks is told, and when both do', () => {
  assert.equal(heard(0, news(0, { speaking: ['customer'] })).kind, 'customer');
  assert.equal(heard(0, news(0, { speaking: ['agent'] })).kind, 'agent');
  assert.equal(heard(0, news(0, { speaking: ['agent', 'customer'] })).kind, 'both');
});

test('somebody who spoke is not known to speak still when no news comes', () => {
  const speaking = news(0, { speaking: ['agent'] });
  assert.equal(heard(4999, speaking).kind, 'agent');
  assert.deepEqual(heard(5000, speaking), { kind: 'unknown', ms: 5000 });
});

test('silence runs on between the news, warns from 10 s and alerts from 20 s', () => {
  const quiet = news(0, { silence_ms: 4000 });
  assert.deepEqual(heard(0, quiet), { kind: 'quiet', ms: 4000 });
  assert.deepEqual(heard(5999, quiet), { kind: 'quiet', ms: 9999 });
  assert.deepEqual(heard(6000, quiet), { kind: 'warning', ms: 10_000 });
  assert.deepEqual(heard(15_999, quiet), { kind: 'warning', ms: 19_999 });
  assert.deepEqual(heard(16_000, quiet), { kind: 'alert', ms: 20_000 });
});

test('news that was long on its way does not set the silence back', () => {
  const voice = voiceOf(news(0, { silence_ms: 4000 }), news(1900, { silence_ms: 5000 }));
  assert.equal(silenceMs(voice, start + 2000), 6000);
});

test('a word ends the silence, also when no news of it came', () => {
  assert.equal(silenceMs(voiceOf(news(0, { silence_ms: 9000 }), news(500, { speaking: ['agent'] })), start + 9000), 0);
  assert.equal(silenceMs(voiceOf(news(0, { silence_ms: 9000 }), news(1000, { silence_ms: 300 })), start + 1000), 300);
});

test('a clock of the page that lags behind makes no negative silence', () => {
  assert.deepEqual(heard(-700, news(0)), { kind: 'quiet', ms: 0 });
});

test('before anybody has spoken the silence is counted and nobody is warned', () => {
  assert.deepEqual(heard(30_000, news(0, { customer_ms: 0, agent_ms: 0 })), { kind: 'quiet', ms: 30_000 });
});

test('silence runs on while the server hears nothing that it could count', () => {
  assert.deepEqual(heard(9000, news(0, { silence_ms: 2000 }), news(4000, { silence_ms: 2000 }), news(8000, { silence_ms: 2000 })), { kind: 'warning', ms: 11_000 });
});

test('of a line that is gone nothing is known: no silence, no hold, no lag', () => {
  const { tentative: _live, ...last } = news(0, { seq: 1, on_hold: true, lag_ms: 9000, silence_ms: 5000, hold_ms: 8000 });
  const voice = voiceOf(last);
  assert.deepEqual(heardNow(voice, start + 12_000), { kind: 'unknown', ms: 12_000 });
  assert.deepEqual([silenceMs(voice, start + 60_000), holdMs(voice, start + 60_000), isBehind(voice), voice.hold_ms], [0, 0, false, 8000]);
  assert.equal(heard(20_000, last, news(20_000, { seq: 1, speaking: ['agent'] })).kind, 'agent');
});

test('on hold there is no silence, however long it lasts', () => {
  const onHold = [news(0, { silence_ms: 9000 }), news(1000, { on_hold: true, silence_ms: 9000, hold_ms: 200 })];
  assert.deepEqual(heard(61_000, ...onHold), { kind: 'hold', ms: 60_200 });
  assert.equal(silenceMs(voiceOf(...onHold), start + 61_000), 0);
  const after = news(70_000, { silence_ms: 1000, hold_ms: 69_000 });
  assert.deepEqual(heard(71_000, ...onHold, after), { kind: 'quiet', ms: 2000 });
});

test('a hold is counted from where it began, whether or not the server counts it meanwhile', () => {
  const before = news(0, { hold_ms: 30_000, speaking: ['agent'] });
  const counted = voiceOf(before, news(1000, { on_hold: true, hold_ms: 30_500 }), news(2000, { on_hold: true, hold_ms: 31_500 }));
  assert.deepEqual([holdMs(counted, start + 2000), counted.has_seen_hold_begin], [1500, true]);
  const uncounted = voiceOf(before, news(1000, { on_hold: true, hold_ms: 30_000 }), news(2000, { on_hold: true, hold_ms: 30_000 }));
  assert.equal(holdMs(uncounted, start + 2000), 1000);
  assert.equal(holdMs(voiceOf(before), start), 0);
});

test('of a hold that began before the page did, only all holds together are known', () => {
  const voice = voiceOf(news(0, { on_hold: true, hold_ms: 42_000 }), news(1000, { on_hold: true, hold_ms: 43_000 }));
  assert.deepEqual([holdMs(voice, start + 1000), voice.has_seen_hold_begin], [43_000, false]);
});

test('recognition is behind from 1.5 s on, unless there is none', () => {
  const isBehindBy = (lag_ms, recognised = true) => isBehind(voiceOf(news(0, { lag_ms, recognised })));
  assert.deepEqual([isBehindBy(1499), isBehindBy(1500), isBehindBy(60_000, false)], [false, true, false]);
});

test('the talk share is as measured, once anybody has spoken', () => {
  const said = segment({ seq: 1, speaker: 'agent' });
  assert.deepEqual(talkShare(fold(said, news(0, { seq: 1, customer_ms: 3000, agent_ms: 1000 }))), { agent: 25, customer: 75 });
  assert.equal(talkShare(fold(news(0, { customer_ms: 0, agent_ms: 0 }))), null);
});

test('partials of both people run side by side, each replaced in its place by its final', () => {
  const partial = (id, speaker, start_ms, text) => segment({ seq: 0, tentative: true, id, speaker, start_ms, end_ms: start_ms + 500, text, final: false });
  const during = fold(
    partial('c1', 'customer', 0, 'my card'), partial('a1', 'agent', 400, 'right'), partial('c1', 'customer', 0, 'my card is'),
    partial('a2', 'agent', 1500, 'let'), partial('a1', 'agent', 400, 'right so'),
  );
  const row = ({ id, text, final }) => [id, text, final];
  assert.deepEqual(during.segments.map(row), [['c1', 'my card is', false], ['a1', 'right so', false], ['a2', 'let', false]]);
  const after = receive(during, segment({ seq: 1, id: 'a1', speaker: 'agent', start_ms: 400, text: 'Right, so.' }));
  assert.deepEqual(after.segments.map(row), [['c1', 'my card is', false], ['a1', 'Right, so.', true], ['a2', 'let', false]]);
  assert.equal(after.segments[0], during.segments[0], 'what did not change is not drawn again');
});

test('a partial that comes to nothing is taken back, a final is not', () => {
  const nothing = segment({ seq: 1, tentative: true, text: ' ', final: false });
  assert.deepEqual(fold(segment({ seq: 0, tentative: true, text: 'uh', final: false }), nothing).segments, []);
  assert.deepEqual(fold(nothing).segments, []);
  assert.equal(fold(segment({ seq: 1 }), nothing).segments[0].text, 'hi');
});

test('a partial that no final followed goes with the next final of the same speaker', () => {
  const partial = (id, speaker, start_ms) => segment({ seq: 0, tentative: true, id, speaker, start_ms, end_ms: start_ms + 500, text: id, final: false });
  const state = fold(
    partial('c1', 'customer', 0), partial('a1', 'agent', 100), partial('c3', 'customer', 3000),
    segment({ seq: 1, id: 'c2', start_ms: 1000, end_ms: 2000 }),
  );
  assert.deepEqual(state.segments.map((other) => other.id), ['a1', 'c2', 'c3']);
  const late = receive(state, segment({ seq: 2, id: 'c1', text: 'after all' }));
  assert.deepEqual(late.segments.map((other) => other.id), ['c1', 'a1', 'c2', 'c3'], 'its final finds its place even so');
});

test('a late partial changes nothing at all', () => {
  const state = fold(segment({ seq: 1 }));
  assert.equal(receive(state, segment({ seq: 1, tentative: true, text: 'h', final: false })), state);
});

test('a revision replaces speaker and text in place', () => {
  const state = fold(
    segment({ seq: 1, id: 'a' }), segment({ seq: 2, id: 'b', start_ms: 2000, text: 'let me look' }), segment({ seq: 3, id: 'c', start_ms: 4000 }),
    segment({ seq: 4, id: 'b', start_ms: 2000, speaker: 'agent', text: 'Let me look.' }),
  );
  assert.deepEqual(state.segments.map(({ id, speaker, text }) => [id, speaker, text]),
    [['a', 'customer', 'hi'], ['b', 'agent', 'Let me look.'], ['c', 'customer', 'hi']]);
});

test('what was read from the words goes with them, and stays when only the speaker was wrong', () => {
  const mark = { call: 'c', seq: 2, at: iso(0), type: 'sensitive', segment: 's1', category: 'threat', term: 'sue', start: 2, end: 5, severity: 'critical', action: 'alert' };
  const before = [segment({ seq: 1, text: 'I sue' }), mark];
  assert.deepEqual(fold(...before, segment({ seq: 3, text: 'I see' })).marks.s1, undefined);
  assert.deepEqual(fold(...before, segment({ seq: 3, text: 'I see you' }), { ...mark, seq: 4, start: 6, end: 9, term: 'you' }).marks.s1.map((other) => other.term), ['you']);
  assert.equal(fold(...before, segment({ seq: 3, text: 'I sue', speaker: 'agent' })).marks.s1.length, 1);
});

test('a mood and a cut-off leave with the customer who did not say it', () => {
  const turns = [segment({ seq: 1, id: 'a', end_ms: 5000 }), segment({ seq: 2, id: 'b', speaker: 'agent', start_ms: 3000, end_ms: 5000 })];
  const mood = { call: 'c', seq: 3, at: iso(0), type: 'emotion', segment: 'a', speaker: 'customer', label: 'angry', scores: {}, valence: -1, trend: 'falling' };
  const before = fold(...turns, mood);
  assert.deepEqual([before.moods.length, cutOffs(before.segments)], [1, { a: 1 }]);
  const after = receive(before, segment({ seq: 4, id: 'a', speaker: 'agent', end_ms: 5000 }));
  assert.deepEqual([after.moods.length, cutOffs(after.segments)], [0, {}]);
});

test('a tick is taken back when the customer said it, or rests on who else did', () => {
  const greeting = (seq, id, speaker) => segment({ seq, id, speaker, start_ms: 1000 * seq, text: 'good morning' });
  const alone = fold(greeting(1, 'a', 'agent'), greeting(2, 'a', 'customer'));
  assert.equal(alone.ticks.greeting, undefined);
  const twice = fold(greeting(1, 'a', 'agent'), greeting(2, 'b', 'agent'), greeting(3, 'a', 'customer'));
  assert.equal(twice.ticks.greeting.segment, 'b');
  assert.equal(fold(greeting(1, 'a', 'customer'), greeting(2, 'a', 'agent')).ticks.greeting.segment, 'a');
});

test('an alert of the line that no sentence shows is shown for a while', () => {
  const alert = (seq, kind, fields = {}) => ({ call: 'c', seq, at: iso(0), type: 'alert', kind, severity: 'warning', message: kind, ...fields });
  const kind = (state, ms) => lineAlert(state, start + ms, 30_000)?.kind ?? null;
  const state = fold(segment({ seq: 1 }), alert(2, 'carrier'), alert(3, 'dead_air'), alert(4, 'interruption', { segment: 's1' }));
  assert.deepEqual([kind(state, 0), kind(state, 30_000), kind(fold(), 0)], ['carrier', null, null]);
  assert.equal(kind(fold(alert(1, 'interruption', { segment: 'gone' })), 0), 'interruption');
});

test('times are short', () => {
  assert.deepEqual([0, 42_000, 702_000, 3_723_000].map(timer), ['0:00', '0:42', '11:42', '1:02:03']);
  assert.deepEqual([0, 1240, 9949, 9950, 59_400, 59_500, 74_000].map(span), ['0.0 s', '1.2 s', '9.9 s', '10 s', '59 s', '1:00', '1:14']);
});

test('the board knows hold, silence and lag, as the audio tells them', () => {
  const row = { call: 'c', agent: 'alice', channel: 'voice', knowledge: ['tel'], started_at: iso(0) };
  const listed = act(emptyBoard(), { do: 'list', calls: [row], isAll: true, now: start });
  const told = (state, ms, fields) => act(state, { do: 'receive', envelope: news(ms, fields), lagMs: 1, now: start + ms });
  const quiet = told(listed, 1000, { silence_ms: 1000, lag_ms: 2000 });
  assert.deepEqual([silence(quiet.calls.c, start + 20_000), silence(quiet.calls.c, start + 21_000), isBehind(quiet.calls.c.voice)], [0, 21_000, true]);
  const held = told(quiet, 30_000, { on_hold: true });
  assert.deepEqual([silence(held.calls.c, start + 99_000), holdMs(held.calls.c.voice, start + 99_000)], [0, 69_000]);
  assert.ok(need(quiet.calls.c, start + 60_000) > need(held.calls.c, start + 60_000));
  const spoken = told(quiet, 30_000, { speaking: ['agent'] });
  assert.equal(silence(spoken.calls.c, start + 60_000), 0);
});

test('a snapshot takes no news of the audio away', () => {
  const row = { call: 'c', agent: 'alice', channel: 'voice', knowledge: [], seq: 4 };
  const told = act(emptyBoard(), { do: 'receive', envelope: news(0, { on_hold: true }), lagMs: 1, now: start });
  assert.ok(act(told, { do: 'list', calls: [row], isAll: true, now: start + 10 }).calls.c.voice.on_hold);
});
