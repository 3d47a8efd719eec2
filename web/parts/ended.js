// After the call: what it was, how it came out, what was used, where to go.

import { html } from '../html.js';
import { Redacted } from './transcript.js';
import { assistant } from '../session.js';
import { capital, clock, plural, words } from '../text.js';

/**
 * @param {{
 *   call: import('../state/call.js').CallState,
 *   panel: import('../state/panel.js').PanelState,
 *   isReadOnly: boolean,
 *   next: {call: string, label: string}|null,
 *   onNext: () => void,
 * }} props
 */
export function Ended({ call, panel, isReadOnly, next, onNext }) {
  const { reason, duration_ms } = call.closed;
  const { disposition, topics = [] } = call.summary ?? {};
  const how = [`after ${clock(duration_ms)}`, !['hangup', 'interrupted'].includes(reason) && words(reason)].filter(Boolean).join(' · ');
  return html`<section class="ended" aria-label="The call has ended">
    <div class="ended-text">
      <h2>${reason === 'interrupted' ? 'The connection to this call was lost' : 'The call has ended'} <span class="faint number">${how}</span></h2>
      ${call.summary?.text ? html`<p class="summary"><${Redacted} text=${call.summary.text} /></p>`
        : html`<p class="faint">${assistant.value.model ? 'No summary was written.' : 'No summary was written: no model is loaded.'}</p>`}
    </div>
    <dl class="outcome">
      ${disposition && html`<div><dt>Outcome</dt><dd><strong>${capital(disposition)}</strong></dd></div>`}
      ${topics.length > 0 && html`<div><dt>Topics</dt><dd>${topics.map((topic) => html`<span class="badge" key=${topic}>${words(topic)}</span>`)}</dd></div>`}
      <div><dt>Drafts</dt><dd>${draftsUsed(call)}</dd></div>
      <div><dt>Cards</dt><dd><${CardsUsed} call=${call} panel=${panel} /></dd></div>
    </dl>
    ${next ? html`<button class="primary" onClick=${onNext}>Next call: ${next.label} <kbd>N</kbd></button>`
      : isReadOnly ? html`<a class="button" href="/board">Back to the board</a>` : html`<p class="faint">No other call is open.</p>`}
  </section>`;
}

/** @param {import('../state/call.js').CallState} call */
function draftsUsed(call) {
  const count = (verdict) => call.drafts.filter((draft) => draft.verdict === verdict).length;
  const finished = call.drafts.filter((draft) => draft.text && draft.state === 'done').length;
  if (finished === 0) return 'none was written';
  const [accepted, edited, rejected] = ['accepted', 'edited', 'rejected'].map(count);
  return [
    `${accepted + edited} of ${plural(finished, 'draft')} used`, edited > 0 && `${edited} of them edited`, rejected > 0 && `${rejected} rejected`,
  ].filter(Boolean).join(', ');
}

/** What helped, by title: copied by hand, or in a draft that was used. */
function CardsUsed({ call, panel }) {
  if (call.cards.length === 0) return 'none was needed';
  const drafted = new Set(call.drafts.filter((draft) => draft.verdict === 'accepted' || draft.verdict === 'edited').flatMap((draft) => draft.cards));
  const used = call.cards.filter((card) => drafted.has(card.key) || panel.copied[card.key]);
  const titles = new Map();
  for (const card of used) {
    const how = [panel.copied[card.key] && 'copied', drafted.has(card.key) && 'in a draft'].filter(Boolean);
    titles.set(card.title, new Set([...(titles.get(card.title) ?? []), ...how]));
  }
  const wrong = call.cards.filter((card) => panel.wrong[card.key]).length;
  return html`${used.length} of ${plural(call.cards.length, 'card')} used${wrong > 0 && `, ${wrong} marked wrong`}
    ${[...titles].map(([title, how]) => html`<span class="used" key=${title}>“${title}” <span class="faint">${[...how].join(', ')}</span></span>`)}`;
}
