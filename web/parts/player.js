// A visitor who plays a call: segments through the same socket that carriers use. Partial while
// typing, final on Enter; the times are those of the keys.

import { get } from '../api.js';
import { perFrame } from '../socket.js';
import { sentence } from '../text.js';

const WAITS_MS = [1000, 2000, 5000, 10_000];
// The server has said why and would say it again: a broken rule, a message that it cannot take, a
// call that was taken over. Coming back would not help.
const TAKEN_OVER = 4009;
/** What the server's refusals mean to a person, where its own words are for programs. */
const REASONS = {
  call_closed: 'This call is over.',
  taken_over: 'Another page has taken this call over.',
};
const FINAL_CODES = [1003, 1007, 1008, 1009, TAKEN_OVER];

/**
 * Opens a call's ingest socket.
 * @param {{call: string, agent: string, knowledge: string[]}} start @param {(state: {status: 'connecting'|'live'|'lost'|'stopped'|'ended', error?: string}) => void} onState
 */
export function startPlaying(start, onState) {
  const started = Date.now();
  const url = new URL('/v1/calls/ingest', location.href);
  url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
  let seq = 0;
  let segments = 0;
  let last = 0;
  let socket = null;
  let isOver = false;
  let attempts = 0;
  let timer = 0;
  let isStarted = false;
  let refusal = '';
  /** Sent and not yet acknowledged: sent again after a reconnect, which changes nothing twice. */
  let waiting = [];

  function stop(error) {
    isOver = true;
    onState({ status: 'stopped', error: sentence(error) });
  }

  function open() {
    refusal = '';
    isStarted = false;
    socket = new WebSocket(url);
    socket.onopen = () => socket.send(JSON.stringify({
      type: 'start', ...start, channel: 'chat', language: 'en', started_at: new Date(started).toISOString(),
    }));
    socket.onmessage = (event) => {
      const message = JSON.parse(event.data);
      if (message.type === 'started') {
        waiting = waiting.filter((frame) => frame.seq > message.resume_after);
        // A call that was fed before this page continues behind what is durable.
        if (seq < message.resume_after) seq = message.resume_after;
        waiting.forEach((frame) => socket.send(JSON.stringify(frame)));
        isStarted = true;
        attempts = 0;
        onState({ status: 'live' });
      } else if (message.type === 'ack') {
        waiting = waiting.filter((frame) => frame.seq > message.seq);
      } else if (message.type === 'error') {
        refusal = REASONS[message.code] ?? message.message;
        // A refused start closes the socket, which tells the rest.
        if (isStarted) onState({ status: 'live', error: sentence(refusal) });
      }
    };
    socket.onclose = (event) => {
      if (isOver) return;
      if (FINAL_CODES.includes(event.code)) {
        stop(event.code === TAKEN_OVER ? REASONS.taken_over : refusal || REASONS[event.reason] || event.reason || 'The server refused the call.');
        return;
      }
      onState({ status: 'lost' });
      // A socket does not say that nobody is signed in any more; a request does, and leads there.
      if (attempts > 0) get('/v1/calls?limit=1').catch((error) => { if (error.status === 403 && !isOver) stop(error.message); });
      timer = setTimeout(() => { if (!isOver) open(); }, WAITS_MS[Math.min(attempts, WAITS_MS.length - 1)]);
      attempts += 1;
    };
  }

  function send(segment, isKept) {
    seq += 1;
    const frame = { type: 'segment', seq, ...segment };
    if (isKept) waiting.push(frame);
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(frame));
  }

  const current = { customer: null, agent: null };
  function said(speaker, text, isFinal) {
    const now = Math.max(last, Date.now() - started);
    if (!current[speaker]) {
      segments += 1;
      current[speaker] = { id: `s${segments}`, start_ms: now };
    }
    const { id, start_ms } = current[speaker];
    send({ id, speaker, text, start_ms, end_ms: Math.max(now, start_ms + 1), final: isFinal }, isFinal);
    if (isFinal) {
      last = now;
      current[speaker] = null;
    }
  }

  const typing = perFrame((/** @type {string[]} */ texts) => {
    const text = texts.at(-1);
    if (text.trim() && !isOver) said('customer', text, false);
  });

  open();
  return {
    /** When the call began, in milliseconds. */
    started,
    /** The customer is typing. */
    typing,
    /** Somebody has said something. */
    say: (/** @type {'customer'|'agent'} */ speaker, /** @type {string} */ text) => said(speaker, text, true),
    /** Hangs up. */
    end() {
      if (isOver) return;
      isOver = true;
      clearTimeout(timer);
      if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: 'end', reason: 'hangup' }));
      onState({ status: 'ended' });
    },
  };
}
