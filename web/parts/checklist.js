// The row at the foot of a call: what every call needs, ticked as the agent says it.

import { html } from '../html.js';
import { clock } from '../text.js';
import { lineId } from './transcript.js';
import { points } from '../state/checklist.js';

/** @param {{call: import('../state/call.js').CallState}} props */
export function Checklist({ call }) {
  // What is typed is not recorded by anybody who would have to say so.
  const isChat = call.opened?.channel === 'chat';
  const shown = points(call.ticks).filter((point) => !isChat || point.id !== 'recording');
  return html`<ul class="checklist" aria-label="Said so far">${shown.map(({ id, title, tick }) => html`<li key=${id} class=${tick ? 'ticked' : ''}>
    ${tick ? html`<button class="link plain" title=${`said at ${clock(tick.at_ms)}: “${tick.sentence}”`} onClick=${() => show(tick.segment)}
      ><${Box} isTicked />${title}<span class="visually-hidden">: said at ${clock(tick.at_ms)}, show it</span></button>`
      : html`<span><${Box} />${title}<span class="visually-hidden">: not said yet</span></span>`}</li>`)}</ul>`;
}

/** Goes to the line that ticked a point. */
function show(segment) {
  const line = document.getElementById(lineId(segment));
  if (!line) return;
  // A line takes the focus for this one time only: a click into the transcript should not mark it.
  line.tabIndex = -1;
  line.addEventListener('blur', () => line.removeAttribute('tabindex'), { once: true });
  line.scrollIntoView({ block: 'center' });
  line.focus({ preventScroll: true });
}

function Box({ isTicked = false }) {
  return html`<svg class="box" viewBox="0 0 12 12" width="12" height="12" aria-hidden="true">
    <rect x="1" y="1" width="10" height="10" rx="2.5" />${isTicked && html`<path d="M3.4 6.2 5.3 8.1 8.8 4.1" />`}</svg>`;
}
