// The strip on top of a call: time, connection, who, how the customer feels, how both speak.

import { html } from '../html.js';
import { EmotionWord } from './emotion.js';
import { Share, VoiceRow } from './voice.js';
import { Sparkline } from './sparkline.js';
import { TONES, clock } from '../text.js';
import { isFlagged, latestMood, talkShare } from '../state/call.js';
import { nameOf, named } from '../bases.js';
import { now } from '../clock.js';
import { assistant, whyNoEmotion } from '../session.js';

const LEVELS = { slow: ['▼', 'slow'], normal: ['', ''], fast: ['▲', 'fast'] };

/** @param {{live: import('../state/live.js').LiveCall, isReadOnly: boolean, hands: any}} props */
export function Vitals({ live, isReadOnly, hands }) {
  const call = live.call.value;
  const opened = call.opened;
  const mood = latestMood(call);
  const heard = mood && call.segments.find((segment) => segment.id === mood.segment)?.text;
  const silent = call.closed ? null : whyNoEmotion(assistant.value);
  const begun = live.startedAt ?? opened?.at;
  return html`<header class="vitals" aria-label="State of the call">
    <div class="vital time">
      <strong class="number clock">${clock(call.closed ? call.closed.duration_ms : begun ? now.value - new Date(begun).getTime() : 0)}</strong>
      <${LinkState} live=${live} />
    </div>
    <div class="vital who-is">
      <strong>${opened ? nameOf({ ...opened, call: call.call }) : 'Customer'}</strong>
      <span class="faint">${opened ? [opened.customer && named(opened.knowledge), opened.channel].filter(Boolean).join(' · ') : ''}</span>
    </div>
    <div class="vital feels" title=${silent ?? (heard ? `said: “${heard}”` : undefined)}>
      ${silent ? html`<span class="faint">emotion –<span class="visually-hidden"> ${silent}</span></span>`
        : mood ? html`<${EmotionWord} mood=${mood} />` : html`<span class="faint">no emotion yet</span>`}
      <${Sparkline} values=${call.moods.map((other) => other.valence)} tone=${mood ? TONES[mood.label] : 'plain'} label="Customer's valence" />
    </div>
    ${opened?.channel !== 'chat' && html`<div class="vital rates">
      <${Rate} who=${isReadOnly ? 'agent' : 'you'} rate=${call.rates.agent} />
      <${Rate} who="customer" rate=${call.rates.customer} />
      <span class="faint" title="words per minute of speaking time">wpm</span>
    </div>`}
    ${opened?.channel !== 'chat' && !call.voice && html`<${Share} share=${talkShare(call)} agent=${isReadOnly ? 'agent' : 'you'} />`}
    <div class="vital tools">
      ${isFlagged(call) && html`<span class="badge tone-warn">⚑ flagged</span>`}
      ${!isReadOnly && !call.closed && html`<button class="small" onClick=${() => hands.askForHelp(true)} title="Ask a supervisor for help" aria-label="Ask a supervisor for help">⚑ <span class="help-word">help <kbd>F</kbd></span></button>`}
      <button class="quiet small" onClick=${() => hands.help(true)} aria-label="All keys"><kbd>?</kbd></button>
    </div>
    <${VoiceRow} live=${live} isReadOnly=${isReadOnly} />
  </header>`;
}

function LinkState({ live }) {
  const { status, since } = live.link.value;
  if (live.call.value.closed) return html`<span class="link-state over">■ ended</span>`;
  if (status === 'connecting') return html`<span class="link-state faint" role="status">○ connecting</span>`;
  if (status === 'lost') {
    return html`<span class="link-state lost" role="status">○ lost, coming back <span class="number">${Math.max(0, Math.round((now.value - since) / 1000))} s</span></span>`;
  }
  const lags = live.lags.value;
  const lag = lags.length ? Math.round([...lags].sort((a, b) => a - b)[Math.floor(lags.length / 2)]) : null;
  return html`<span class="link-state live"><span class="dot" aria-hidden="true">●</span> <span class="live-word">live</span>${lag !== null
    && html`<span class="faint number lag" title="From the event on the server to this page, median of the last ${lags.length}"> lag ${lag} ms</span>`}</span>`;
}

function Rate({ who, rate }) {
  if (!rate) return html`<span class="rate faint">${who} –</span>`;
  const [arrow, word] = LEVELS[rate.level] ?? LEVELS.normal;
  const detail = `${rate.articulation_rate?.toFixed(1)} syllables/s; whole call ${Math.round(rate.call_words_per_minute ?? rate.words_per_minute)} wpm`;
  return html`<span class="rate" title=${detail}>${who} <span class="number">${Math.round(rate.words_per_minute)}</span>${arrow && html`
    <span class=${`level ${rate.level}`}>${arrow} ${word}</span>`}</span>`;
}
