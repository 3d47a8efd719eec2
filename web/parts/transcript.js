// The transcript: what was said, partials in grey, what was removed as badges. It follows the
// call while the reader is at its end, and stays where it is when they are not.

import { useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';

import { html } from '../html.js';
import { EmotionDetail } from './emotion.js';
import { NO_SPEECH_MODEL } from './voice.js';
import { clock, words, SEVERITY_TONES } from '../text.js';
import { cutOffs } from '../state/overlaps.js';
import { markedText } from '../state/pieces.js';

const NEAR_END_PX = 60;

/** @param {{call: import('../state/call.js').CallState}} props */
export function Transcript({ call }) {
  const box = useRef(null);
  const isFollowing = useRef(true);
  const [isAway, setAway] = useState(false);
  // In a chat both may type at once, and nobody is cut off.
  const isVoice = call.opened?.channel !== 'chat';
  const isRecognised = call.voice?.recognised ?? true;
  const isHeard = isVoice && call.voice?.customer_ms + call.voice?.agent_ms > 0;
  const cuts = useMemo(() => (isVoice ? cutOffs(call.segments) : {}), [call.segments, isVoice]);
  // News of the audio comes each second and changes no line: hundreds of them are not compared for it.
  const lines = useMemo(() => {
    const moods = new Map(call.moods.map((mood) => [mood.segment, mood]));
    /** @type {Map<string, any[]>} */
    const alerts = new Map();
    for (const alert of call.alerts) alerts.set(alert.segment, [...(alerts.get(alert.segment) ?? []), alert]);
    return call.segments.map((segment, index) => html`<${Line} key=${segment.id} segment=${segment}
      isSameSpeaker=${call.segments[index - 1]?.speaker === segment.speaker}
      marks=${call.marks[segment.id]} mood=${moods.get(segment.id)} cuts=${cuts[segment.id] ?? 0}
      alerts=${alerts.get(segment.id)} />`);
  }, [call.segments, call.moods, call.marks, call.alerts, cuts]);

  useLayoutEffect(() => {
    if (isFollowing.current) toEnd(box.current);
    // Not the last one alone: two people's partials grow at once.
  }, [call.segments, call.moods.length, call.alerts.length]);

  const onScroll = () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current;
    isFollowing.current = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    setAway(!isFollowing.current);
  };
  const jump = () => {
    isFollowing.current = true;
    setAway(false);
    toEnd(box.current);
  };

  return html`<section class="transcript" aria-label="Transcript">
    <h2 class="caption">Transcript</h2>
    ${isVoice && !isRecognised && html`<p class="no-speech-model">${call.closed ? NO_SPEECH_MODEL.closed : NO_SPEECH_MODEL.open}</p>`}
    <div class="lines" ref=${box} onScroll=${onScroll} tabindex="0" role="log" aria-live="off">
      ${call.segments.length === 0 && isRecognised && html`<p class="faint pad">${isHeard ? 'Nothing has been recognised yet.' : 'Nobody has spoken yet.'}</p>`}
      ${lines}
    </div>
    ${isAway && html`<button class="pill" onClick=${jump}>↓ ${call.closed ? 'to the end' : 'jump to live'}</button>`}
  </section>`;
}

/** Returns the id of a segment's line on the page. @param {string} segment */
export const lineId = (segment) => `line-${segment}`;

function toEnd(element) {
  element.scrollTop = element.scrollHeight;
}

function Line({ segment, isSameSpeaker, marks = [], mood, cuts, alerts = [] }) {
  const removed = marks.filter((mark) => mark.action !== 'alert');
  const kinds = [...new Set(removed.map((mark) => words(mark.category)))];
  return html`<div class=${`line ${segment.speaker} ${segment.final ? '' : 'partial'} ${isSameSpeaker ? 'same' : ''}`} id=${lineId(segment.id)}>
    <time class="number faint">${clock(segment.start_ms)}</time>
    <span class="speaker">${segment.speaker}</span>
    <div class="said">
      <p>${markedText(segment.text, marks).map((part, index) => html`<${Part} key=${index} part=${part} />`)}
        ${!segment.final && html`<span class="caret" aria-hidden="true"></span><span class="visually-hidden"> (still speaking)</span>`}</p>
      ${(mood || cuts > 0 || kinds.length > 0 || alerts.length > 0) && html`<div class="under">
        ${mood && html`<${EmotionDetail} mood=${mood} />`}
        ${cuts > 0 && html`<span class="cut-off number" title="The agent began to speak before the customer had finished">cut off ×${cuts}</span>`}
        ${kinds.length > 0 && html`<span class="removed-note"><${Shield} />${kinds.join(', ')} removed</span>`}
        ${alerts.filter((alert) => alert.kind !== 'emotion').map((alert) => html`<span key=${alert.seq}
          class=${`badge tone-${SEVERITY_TONES[alert.severity] ?? 'plain'}`}>${alert.severity === 'critical' ? '!! ' : '! '}${alert.message}</span>`)}
      </div>`}
    </div>
  </div>`;
}

function Part({ part }) {
  if (part.kind === 'removed') return html`<span class="removed">${part.text.slice(1, -1)}</span>`;
  if (part.kind === 'term') {
    const { category, severity } = part.mark;
    return html`<mark class=${`term tone-${SEVERITY_TONES[severity] ?? 'plain'}`}
      title=${`${words(category)} · ${severity}`}>${part.text}</mark>`;
  }
  return part.text;
}

/** A text with its placeholders drawn as badges. @param {{text: string}} props */
export function Redacted({ text }) {
  return markedText(text).map((part, index) => html`<${Part} key=${index} part=${part} />`);
}

function Shield() {
  return html`<svg class="icon" viewBox="0 0 12 12" width="12" height="12" aria-hidden="true">
    <path d="M6 .8 10.6 2.4v3.2c0 2.8-2 4.8-4.6 5.7C3.4 10.4 1.4 8.4 1.4 5.6V2.4z" /></svg>`;
}
