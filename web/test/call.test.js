// The fold of a call, the pieces of a draft, the order of the cards. Run: node --test web/test/

import assert from 'node:assert/strict';
import test from 'node:test';

import { act, emptyPanel } from '../state/panel.js';
import { draftPieces, highlighted, markedText, quotesKept, spanOf } from '../state/pieces.js';
import { cutOffs } from '../state/overlaps.js';
import { emptyCall, isGap, latestDraft, receive, talkShare } from '../state/call.js';

const at = '2026-01-01T00:00:00Z';
const segment = (fields) => ({
  call: 'c', at, type: 'segment', id: 's1', speaker: 'customer', text: 'hi', start_ms: 0, end_ms: 1000, final: true, ...fields,
});
const draft = (fields) => ({ call: 'c', at, type: 'draft', id: 'd1', text: '', state: 'writing', cards: [], steps: 0, tokens: 0, ...fields });
const fold = (...envelopes) => envelopes.reduce(receive, emptyCall('c'));

test('a partial is replaced, a final stays', () => {
  const state = fold(
    segment({ seq: 0, tentative: true, text: 'my eng', final: false }),
    segment({ seq: 1, text: 'my engineer', final: true }),
    segment({ seq: 1, tentative: true, text: 'late partial', final: false }),
  );
  assert.deepEqual(state.segments.map((other) => other.text), ['my engineer']);
  assert.equal(state.seq, 1);
});

test('a repeated envelope changes nothing', () => {
  const once = fold(segment({ seq: 1 }), { call: 'c', seq: 2, at, type: 'note', from: 'sam', text: 'calm' });
  assert.equal(receive(once, { call: 'c', seq: 2, at, type: 'note', from: 'sam', text: 'calm' }), once);
});

test('a missing number is a gap, a tentative envelope never is', () => {
  const state = fold(segment({ seq: 1 }));
  assert.ok(isGap(state, segment({ seq: 3 })));
  assert.ok(!isGap(state, segment({ seq: 2 })));
  assert.ok(!isGap(state, draft({ seq: 1, tentative: true })));
});

test('segments stand in the order of their start', () => {
  const state = fold(
    segment({ seq: 1, id: 'a', start_ms: 100 }),
    segment({ seq: 2, id: 'b', start_ms: 900 }),
    segment({ seq: 3, id: 'c', start_ms: 400 }),
  );
  assert.deepEqual(state.segments.map((other) => other.id), ['a', 'c', 'b']);
});

test('partials vanish when the call closes', () => {
  const state = fold(
    segment({ seq: 1 }),
    segment({ seq: 1, tentative: true, id: 's2', final: false }),
    { call: 'c', seq: 2, at, type: 'call_closed', reason: 'hangup', duration_ms: 5000 },
  );
  assert.deepEqual(state.segments.map((other) => other.id), ['s1']);
});

test('a judged draft keeps its verdict until it is rewritten', () => {
  const judged = fold(
    draft({ seq: 1, text: 'Hello.', state: 'done' }),
    { call: 'c', seq: 2, at, type: 'draft_judged', id: 'd1', verdict: 'rejected' },
  );
  assert.equal(latestDraft(judged).verdict, 'rejected');
  assert.equal(latestDraft(receive(judged, draft({ seq: 2, tentative: true, text: 'He' }))).verdict, undefined);
});

test('a rewrite that comes to nothing leaves the verdict, one that changes the text does not', () => {
  const judged = fold(
    draft({ seq: 1, text: 'Hello.', state: 'done' }),
    { call: 'c', seq: 2, at, type: 'draft_judged', id: 'd1', verdict: 'edited', text: 'Hello!' },
    draft({ seq: 2, tentative: true, text: '', tentative_text: '░░' }),
  );
  assert.equal(latestDraft(judged).verdict, undefined);
  assert.equal(latestDraft(judged).original.text, 'Hello.');
  const failed = latestDraft(receive(judged, draft({ seq: 3, text: 'Hello.', state: 'done', error: 'too long' })));
  assert.deepEqual([failed.verdict, failed.used_text, failed.original], ['edited', 'Hello!', undefined]);
  assert.equal(latestDraft(receive(judged, draft({ seq: 3, text: 'Good day.', state: 'done' }))).verdict, undefined);
});

test('two bases may hold the same card id', () => {
  const card = (base, id) => ({ id, base, article: 'a', title: base, passage: '', score: 1, version: 1 });
  const pushed = (seq, ...cards) => ({ call: 'c', seq, at, type: 'cards', segment: 's1', cards });
  const state = fold(
    pushed(1, card('tel', 'fees#1'), card('bank', 'fees#1')),
    pushed(2, card('bank', 'fees#1')),
    draft({ seq: 3, state: 'done', text: 'x', cards: ['fees#1', 'none#1'] }),
  );
  assert.deepEqual(state.cards.map((other) => [other.key, other.round]), [['tel/fees#1', 1], ['bank/fees#1', 2]]);
  assert.deepEqual(latestDraft(state).cards, ['bank/fees#1']);
});

test('who begins 300 ms before the customer has ended cuts them off', () => {
  const turn = (id, speaker, start_ms, end_ms, final = true) => segment({ id, speaker, start_ms, end_ms, final });
  assert.deepEqual(cutOffs([
    turn('a', 'customer', 0, 5000), turn('b', 'agent', 3000, 3400), turn('c', 'agent', 4700, 6000),
    turn('d', 'customer', 6000, 8000), turn('e', 'agent', 7701, 9000),
    turn('f', 'agent', 9500, 12_000), turn('g', 'customer', 10_000, 11_000), turn('h', 'agent', 10_100, 10_900, false),
  ]), { a: 2 });
});

test('the talk share is of final segments only', () => {
  assert.equal(talkShare(emptyCall('c')), null);
  const state = fold(
    segment({ seq: 1, id: 'a', speaker: 'agent', start_ms: 0, end_ms: 3000 }),
    segment({ seq: 2, id: 'b', start_ms: 3000, end_ms: 4000 }),
    segment({ seq: 2, tentative: true, id: 'x', start_ms: 4000, end_ms: 99_000, final: false }),
  );
  assert.deepEqual(talkShare(state), { agent: 75, customer: 25 });
});

test('a draft is cut into words and masks that keep their keys', () => {
  const before = draftPieces('I can', ' ░░ fee', []);
  const after = draftPieces('I can', ' waive░ fee', []);
  const shown = before.filter((piece) => piece.text.trim());
  assert.deepEqual(shown.map((piece) => piece.text.trim()), ['I', 'can', '░', '░', 'fee']);
  assert.equal(after.map((piece) => piece.text).join(''), 'I can waive░ fee');
  const keys = new Set(after.map((piece) => piece.key));
  for (const piece of shown.filter((other) => other.kind === 'word')) assert.ok(keys.has(piece.key), piece.key);
  assert.equal(new Set(after.map((piece) => piece.key)).size, after.length);
});

test('offsets count scalar values, also behind an astral character', () => {
  const pieces = draftPieces('👋 a fee of €5', '', [[4, 7]]);
  assert.deepEqual(pieces.filter((piece) => piece.isQuoted).map((piece) => piece.text.trim()), ['fee']);
  assert.deepEqual(spanOf(pieces, 0, 1), [0, 3]);
});

test('hidden words become masks and everything else stays', () => {
  const pieces = draftPieces('please wait a moment', '', [], [[7, 11]]);
  assert.deepEqual(pieces.filter((piece) => piece.kind === 'mask').map((piece) => piece.text), ['wait']);
  assert.equal(pieces.map((piece) => piece.text).join(''), 'please wait a moment');
});

test('quotes behind a stretch that is rewritten stay underlined, and their words settled', () => {
  const quoted = (pieces) => pieces.filter((piece) => piece.isQuoted).map((piece) => piece.text).join('');
  const before = draftPieces('You get €30. It is free of charge. Fine?', '', [[13, 34]]);
  const during = draftPieces('You get ', '░░. It is free of charge. Fine?', [[12, 33]], [], 'You get €30. It is free of charge. Fine?');
  assert.equal(quoted(before), 'It is free of charge.');
  assert.equal(quoted(during).trim(), 'It is free of charge.');
  assert.ok(during.filter((piece) => piece.kind === 'word').every((piece) => piece.isSettled));
  const fresh = draftPieces('You get ', 'a ░. Fine?', [], [], 'You get €30. Fine?');
  assert.deepEqual(fresh.filter((piece) => !piece.isSettled && piece.kind === 'word').map((piece) => piece.text.trim()), ['a']);
});

test('an edited draft keeps the quotes that are still in it', () => {
  const text = 'Yes. It is free. It takes a day.';
  assert.deepEqual(quotesKept(text, [[5, 16], [17, 32]], '👋 Of course! It is free. A day or two.'), [[13, 24]]);
});

test('highlights that overlap or overrun are cut, never lost text', () => {
  const parts = highlighted('pay by card', [[0, 3], [2, 6], [7, 99]]);
  assert.equal(parts.map((part) => part.text).join(''), 'pay by card');
  assert.deepEqual(parts.map((part) => part.isMarked), [true, true, false, true]);
});

test('placeholders and terms are told apart', () => {
  const parts = markedText('my card [payment card] or I sue', [
    { category: 'payment_card', term: '[payment card]', start: 8, end: 22, severity: 'warning', action: 'redact' },
    { category: 'legal_threat', term: 'sue', start: 28, end: 31, severity: 'critical', action: 'alert' },
  ]);
  assert.deepEqual(parts.map((part) => [part.kind, part.text]), [
    ['plain', 'my card '], ['removed', '[payment card]'], ['plain', ' or I '], ['term', 'sue'],
  ]);
});

test('held cards do not move and new ones come in below', () => {
  const card = (key, round, rank) => ({ key, round, rank });
  const old = [card('a', 1, 0), card('b', 1, 1), card('c', 1, 2), card('d', 0, 0)];
  let panel = act(emptyPanel(), { do: 'arrange', cards: old });
  assert.deepEqual([panel.order, panel.sight], [['a', 'b', 'c', 'd'], 3]);
  panel = act(panel, { do: 'hold', isHeld: true });
  const cards = [...old, card('e', 2, 0)];
  panel = act(panel, { do: 'arrange', cards });
  assert.deepEqual([panel.order, panel.sight], [['a', 'b', 'c', 'e', 'd'], 4]);
  panel = act(act(act(panel, { do: 'pin', card: 'b' }), { do: 'hold', isHeld: false }), { do: 'arrange', cards });
  assert.deepEqual([panel.order, panel.sight], [['b', 'e', 'a', 'c', 'd'], 3]);
});
