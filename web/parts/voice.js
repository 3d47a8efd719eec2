// The row of a call that is heard: who speaks now, silence, hold, overlap, the share of the talk,
// how far recognition is behind. Every place is kept while it says nothing, so nothing moves.

import { html } from '../html.js';
import { SEVERITY_TONES, span, timer } from '../text.js';
import { SILENCE_WARNS_MS, heardNow, isBehind } from '../state/voice.js';
import { lineAlert, talkShare } from '../state/call.js';
import { now } from '../clock.js';

const SHARE_WIDTH = 56;
const ALERT_SHOWN_MS = 30_000;

/** Why a call has no transcript of its audio. */
export const NO_SPEECH_MODEL = {
  open: 'No speech model: no transcript from audio. Speaking time, overlap and silence are still measured.',
  closed: 'No speech model: no transcript from audio. Speaking time, overlap and silence were measured.',
};

/** @param {{live: import('../state/live.js').LiveCall, isReadOnly: boolean}} props */
export function VoiceRow({ live, isReadOnly }) {
  const call = live.call.value;
  const { voice, closed } = call;
  const link = live.link.value;
  // While the connection is lost the counters stand still: what goes on is not known.
  const at = link.status === 'lost' ? Math.min(now.value, link.since) : now.value;
  const alert = closed ? null : lineAlert(call, now.value, ALERT_SHOWN_MS);
  if (call.opened?.channel === 'chat' || (!voice && !alert)) return null;
  const agent = isReadOnly ? 'agent' : 'you';
  const heard = voice && !closed && heardNow(voice, at);
  return html`<div class=${`voice-row ${heard?.kind === 'hold' ? 'on-hold' : ''}`} role="group" aria-label="What is heard">
    ${heard && html`<${Heard} heard=${heard} voice=${voice} agent=${agent} />`}
    ${voice && html`<${Share} share=${talkShare(call)} agent=${agent} isNamed />`}
    ${voice && html`<${Overlap} voice=${voice} agent=${agent} />`}
    ${closed && voice?.hold_ms > 0 && html`<span class="number">on hold ${timer(voice.hold_ms)}</span>`}
    <span class="voice-notes">
      ${alert && html`<span class=${`badge tone-${SEVERITY_TONES[alert.severity] ?? 'plain'}`} title=${alert.message}>${alert.severity === 'critical' ? '!!' : '!'} ${alert.message}</span>`}
      ${voice && !closed && isBehind(voice) && html`<span class="badge tone-warn number">! Recognition is ${(voice.lag_ms / 1000).toFixed(1)} s behind</span>`}
    </span>
  </div>`;
}

/** What is to be heard now, in words. */
function Heard({ heard, voice, agent }) {
  const { kind, ms } = heard;
  const seconds = Math.floor(ms / 1000);
  if (kind === 'hold') {
    return html`<strong class="heard-now number"><${Icon} shape="pause" />${voice.has_seen_hold_begin || voice.hold_ms === 0
      ? `On hold ${timer(ms)}` : `On hold, ${timer(ms)} in all`}</strong>`;
  }
  if (kind === 'warning' || kind === 'alert') {
    return html`<span class="heard-now number"><span class=${`badge silence-${kind} tone-warn`}>${kind === 'alert' ? '!!' : '!'} silent for ${timer(ms)}</span></span>`;
  }
  if (kind === 'unknown' && ms >= SILENCE_WARNS_MS) return html`<span class="heard-now number"><span class="badge tone-warn">! no audio for ${timer(ms)}</span></span>`;
  if (kind === 'quiet') return html`<span class="heard-now faint number"><${Icon} shape="nobody" />quiet${seconds >= 2 && ` ${seconds} s`}</span>`;
  if (kind === 'unknown') return html`<span class="heard-now faint number"><${Icon} shape="nobody" />no audio${seconds >= 2 && ` for ${seconds} s`}</span>`;
  if (kind === 'both') return html`<span class="heard-now both"><${Icon} shape="both" />both at once</span>`;
  const isAgent = kind === 'agent';
  return html`<span class=${`heard-now ${kind}`}><${Icon} shape="one" />${isAgent ? agent : 'customer'} speaking</span>`;
}

/** How often one began while the other spoke, and how long both did. */
function Overlap({ voice, agent }) {
  const { customer_interruptions, agent_interruptions, overlap_ms } = voice;
  const isAny = customer_interruptions + agent_interruptions > 0 || overlap_ms > 0;
  if (!isAny) return html`<span class="overlap faint">no overlap</span>`;
  const detail = `Began while the other spoke: ${agent} ×${agent_interruptions}, customer ×${customer_interruptions}. Both spoke at once for ${span(overlap_ms)}`;
  return html`<span class="overlap number" title=${detail}><span class="faint">cut in</span>
    <span class="by-whom"> ${agent} ×${agent_interruptions}, customer ×${customer_interruptions}</span>
    <span class="in-all"> ×${customer_interruptions + agent_interruptions}</span>
    <span class="faint"> ·<span class="by-whom"> overlap</span></span> ${span(overlap_ms)}</span>`;
}

/**
 * How the speaking time is shared; `isNamed` writes who is who.
 * @param {{share: {agent: number, customer: number}|null, agent: string, isNamed?: boolean}} props
 */
export function Share({ share, agent: name, isNamed = false }) {
  if (!share) return null;
  const agent = (SHARE_WIDTH * share.agent) / 100;
  return html`<div class="vital share" title=${`${name === 'you' ? 'You' : 'Agent'} ${share.agent} %, customer ${share.customer} % of the speaking time`}>
    <span class="faint">${isNamed ? name : 'talk'}</span>
    ${isNamed && html`<span class="number">${share.agent} %</span>`}
    <svg viewBox="0 0 ${SHARE_WIDTH} 8" width=${SHARE_WIDTH} height="8" aria-hidden="true">
      <rect width=${Math.max(0, agent - 1)} height="8" rx="2" class="agent" /><rect x=${agent + 1} width=${Math.max(0, SHARE_WIDTH - agent - 1)} height="8" rx="2" class="customer" /></svg>
    ${isNamed ? html`<span class="number">${share.customer} %</span><span class="faint other">customer</span>`
      : html`<span class="number">${share.agent}:${share.customer}</span>`}</div>`;
}

function Icon({ shape }) {
  return html`<svg class="heard-icon" viewBox="0 0 16 12" width="16" height="12" aria-hidden="true">
    ${shape === 'pause' && html`<path d="M4 1.5h2.6v9H4zM9.4 1.5H12v9H9.4z" />`}
    ${shape === 'one' && html`<circle cx="8" cy="6" r="4" />`}
    ${shape === 'both' && html`<circle cx="3.8" cy="6" r="3.5" />`}
    ${shape === 'both' && html`<circle cx="12.2" cy="6" r="3.5" />`}
    ${shape === 'nobody' && html`<circle cx="8" cy="6" r="3.5" class="hollow" />`}</svg>`;
}
