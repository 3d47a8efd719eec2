// What the agent has said of what every call needs. Run: node --test web/test/

import assert from 'node:assert/strict';
import test from 'node:test';

import { checklist, points, tick } from '../state/checklist.js';
import { emptyCall, receive } from '../state/call.js';

const said = (text, fields = {}) => ({ id: 's1', speaker: 'agent', text, start_ms: 0, end_ms: 1000, final: true, ...fields });
const ticked = (text, fields) => checklist([said(text, fields)]).filter((point) => point.tick).map((point) => point.id);

function check(point, isTicked, texts) {
  for (const text of texts) assert.equal(ticked(text).includes(point), isTicked, `${point}: ${text}`);
}

test('a greeting is heard with and without punctuation', () => {
  check('greeting', true, [
    'Good morning, Northline Mobile, Sam speaking.',
    'good morning meridian skyways you\'re speaking with oisin how can i help',
    'thank you for calling juniper and co',
    'rowan street clinics this is marcus how can i help',
    'Meridian Skyways, Priya speaking. Who do I have on the line?',
    'You’re through to claims.',
    'Hi there!',
  ]);
  check('greeting', false, ['hello are you still there', 'it comes in the morning', 'the good news is that it is free', 'which one']);
});

test('a recording notice is about the call, not about what was noted', () => {
  check('recording', true, [
    'This call may be recorded for training and quality purposes.',
    'calls are recorded and monitored',
    'just so you know we record all calls',
    'this is Judith on a recorded line',
    'your call is being recorded',
  ]);
  check('recording', false, ['I have recorded your complaint.', 'the payment is recorded on your account', 'I will call you back']);
});

test('identity is asked for, in words or figures', () => {
  check('identity', true, [
    'Can I take your full name and date of birth, please?',
    'could you confirm the first line of your address',
    'your surname and postcode',
    'may i take your policy number',
    'what are the last 4 digits of your card number, and what\'s your date of birth',
    'the first and third letters of your password please',
    'the 2nd and 4th characters of your memorable word',
    'i just need to take you through security',
    'am i speaking with mrs farrugia',
  ]);
  check('identity', false, [
    'you\'ll need your customer number for the app',
    'I have changed your address.',
    'it is on hold for a security check because the details changed',
    'your account number stays the same',
  ]);
});

test('a recap is announced', () => {
  check('recap', true, [
    'So, just to recap: three payments from May.',
    'okay to summarise you pay forty a month',
    'let me read that back to you let me go over the details again',
    'that is what we\'ve agreed today',
    'so just to confirm you\'ll get the new card by friday',
  ]);
  check('recap', false, ['could you confirm that', 'so that\'s fine', 'we can agree a plan']);
});

test('only what the agent has finished saying counts', () => {
  assert.deepEqual(ticked('good morning', { speaker: 'customer' }), []);
  assert.deepEqual(ticked('good morning', { final: false }), []);
});

test('the sentence that ticked a point is told, the first one stays', () => {
  const ticks = [
    said('Right. This call is recorded. Hold on.', { id: 'a', start_ms: 400 }),
    said('calls are recorded', { id: 'b', start_ms: 900 }),
  ].reduce(tick, {});
  assert.deepEqual(ticks.recording, { segment: 'a', sentence: 'This call is recorded.', at_ms: 400 });
  assert.deepEqual(points(ticks).map((point) => [point.id, point.tick !== null]),
    [['greeting', false], ['recording', true], ['identity', false], ['recap', false]]);
});

test('a correction never takes a tick back', () => {
  const envelope = (seq, text) => ({ call: 'c', seq, at: '2026-01-01T00:00:00Z', type: 'segment', ...said(text) });
  const state = [envelope(1, 'good morning'), envelope(2, 'could mourning')].reduce(receive, emptyCall('c'));
  assert.equal(state.segments[0].text, 'could mourning');
  assert.equal(state.ticks.greeting.sentence, 'good morning');
});
