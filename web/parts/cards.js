// The cards: what the knowledge base says to the customer's question. They never move under the
// pointer; what is new comes in below and takes its place when the pointer has left.

import { html } from '../html.js';
import { CARDS_IN_SIGHT } from '../state/panel.js';
import { highlighted } from '../state/pieces.js';
import { plural, strength } from '../text.js';

/**
 * @param {{
 *   call: import('../state/call.js').CallState,
 *   panel: import('../state/panel.js').PanelState,
 *   isReadOnly: boolean,
 *   hands: Record<string, (...values: any[]) => void>,
 * }} props
 */
export function Cards({ call, panel, isReadOnly, hands }) {
  const byKey = new Map(call.cards.map((card) => [card.key, card]));
  const shown = panel.order.map((key) => byKey.get(key)).filter(Boolean);
  // Scores compare only within one search: each push has its own best.
  const best = new Map();
  for (const card of call.cards) best.set(card.round, Math.max(best.get(card.round) ?? 0, card.score));
  const near = shown.slice(0, panel.sight);
  const earlier = shown.slice(panel.sight);
  const view = (card, index) => html`<${CardView} key=${card.key} card=${card} number=${index + 1} best=${best.get(card.round)}
    isNewest=${card.round === call.rounds} panel=${panel} isReadOnly=${isReadOnly} hands=${hands} />`;
  return html`<section class="cards" aria-label="Cards"
      onPointerEnter=${() => hands.hold(true)} onPointerLeave=${() => hands.hold(false)}
      onFocusIn=${() => hands.hold(true)}
      onFocusOut=${(event) => { if (!event.currentTarget.contains(event.relatedTarget)) hands.hold(false); }}>
    <header class="caption-row"><h2 class="caption">Cards</h2>
      <div class="tools"><button class="quiet small" onClick=${() => hands.search(true)}>search <kbd>/</kbd></button></div></header>
    ${shown.length === 0 && html`<p class="faint pad">${call.closed ? 'No cards were needed.' : 'Passages that answer the customer appear here.'}</p>`}
    <ol class="card-list">${near.map(view)}</ol>
    ${earlier.length > 0 && html`<details class="earlier"><summary>${plural(earlier.length, 'earlier card')}</summary>
      <ol class="card-list">${earlier.map((card, index) => view(card, index + near.length))}</ol></details>`}
  </section>`;
}

function CardView({ card, number, best, isNewest, panel, isReadOnly, hands }) {
  const isPinned = panel.pinned.includes(card.key);
  const isWrong = Boolean(panel.wrong[card.key]);
  const isCurrent = panel.current === card.key && !isReadOnly;
  const isOpen = Boolean(panel.opened[card.key]);
  const word = strength(card.score, best);
  const classes = ['card', isCurrent && 'current', isWrong && 'wrong', isPinned && 'pinned', isOpen && 'open', !isNewest && !isPinned && 'older'];
  return html`<li class=${classes.filter(Boolean).join(' ')} id=${`card-${card.key}`} onClick=${() => hands.choose(card.key)}>
    <header>
      <span class="card-number number" aria-hidden="true">${number <= CARDS_IN_SIGHT ? number : '·'}</span>
      <h3><button class="link plain" aria-expanded=${isOpen} onClick=${() => hands.open(card.key)}>${card.title}</button></h3>
      ${isPinned && html`<span class="badge tone-accent">pinned</span>`}
      ${isWrong && html`<span class="badge">marked wrong</span>`}
      <${Strength} word=${word} score=${card.score} />
    </header>
    <p class="passage"><${Passage} card=${card} /></p>
    <footer>
      <span class="faint">${card.base} · v${card.version}</span>
      <span class="card-tools">
        ${!isReadOnly && html`
          <button class="quiet small" onClick=${() => hands.pin(card.key)} aria-pressed=${isPinned}>pin <kbd class="only-current">P</kbd></button>
          <button class="quiet small" onClick=${() => hands.wrong(card.key)} aria-pressed=${isWrong}>wrong <kbd class="only-current">X</kbd></button>`}
        <button class="quiet small" onClick=${() => hands.copy(card.key)}>${panel.copied[card.key] ? '✓ copied' : 'copy'}${number <= CARDS_IN_SIGHT && html` <kbd>${number}</kbd>`}</button>
      </span>
    </footer>
  </li>`;
}

/** How good a match is: a word and bars, the number on demand. @param {{word: string, score: number}} props */
export function Strength({ word, score }) {
  const bars = { strong: 3, fair: 2, weak: 1 }[word];
  return html`<span class=${`strength ${word}`} title=${`score ${score.toFixed(2)}`}>
    <svg viewBox="0 0 11 9" width="11" height="9" aria-hidden="true">
      ${[0, 1, 2].map((bar) => html`<rect key=${bar} x=${bar * 4} y=${6 - bar * 3} width="3" height=${3 + bar * 3} rx="1" class=${bar < bars ? 'on' : 'off'} />`)}
    </svg>${word}</span>`;
}

/** A passage with what matched in it. @param {{card: {passage: string, highlights: [number, number][]}}} props */
export function Passage({ card }) {
  return highlighted(card.passage, card.highlights).map((part, index) => part.isMarked
    ? html`<mark key=${index}>${part.text}</mark>` : part.text);
}
