// A visitor who plays a call: segments through the same socket that carriers use. Partial while
// typing, final on Enter; the times are those of the keys.

import { perFrame } from '../socket.js';

/**
 * Opens a call's ingest socket.
 * @param {{call: string, agent: string, knowledge: string[]}} start @param {(state: {status: string, error?: string}) => void} onState
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
  /** Sent and not yet acknowledged: sent again after a reconnect, which changes nothing twice. */
  let waiting = [];

  function open() {
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
        onState({ status: 'live' });
      } else if (message.type === 'ack') {
        waiting = waiting.filter((frame) => frame.seq > message.seq);
      } else if (message.type === 'error') {
        onState({ status: 'live', error: message.message });
      }
    };
    socket.onclose = () => {
      if (isOver) return;
      onState({ status: 'lost' });
      setTimeout(() => { if (!isOver) open(); }, 1000);
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
    /** The customer is typing. */
    typing,
    /** Somebody has said something. */
    say: (/** @type {'customer'|'agent'} */ speaker, /** @type {string} */ text) => said(speaker, text, true),
    /** Hangs up. */
    end() {
      if (isOver) return;
      isOver = true;
      if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: 'end', reason: 'hangup' }));
      onState({ status: 'ended' });
    },
  };
}
