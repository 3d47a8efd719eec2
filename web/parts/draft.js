// The draft: words settle out of order among soft boxes, and nothing that has settled moves.
// Select words and press E to have only those rewritten.

import { useLayoutEffect, useRef, useState } from 'preact/hooks';

import { html } from '../html.js';
import { assistant, whyNoDrafts } from '../session.js';
import { draftText } from '../state/call.js';
import { draftPieces, quotesKept, spanOf } from '../state/pieces.js';
import { plural } from '../text.js';

/**
 * @param {{
 *   call: import('../state/call.js').CallState,
 *   draft: import('../state/call.js').Draft|null,
 *   panel: import('../state/panel.js').PanelState,
 *   isReadOnly: boolean,
 *   hands: Record<string, (...values: any[]) => void>,
 * }} props `hands` do what the agent asks
 */
export function DraftCard({ call, draft, panel, isReadOnly, hands }) {
  const isCurrent = panel.current === 'draft' && !isReadOnly;
  const mute = call.closed ? null : whyNoDrafts(assistant.value);
  return html`<section class=${`draft ${draft?.state ?? 'none'} ${isCurrent ? 'current' : ''}`} aria-label="Draft">
    <header class="caption-row">
      <h2 class="caption">Draft ${mute && !draft?.text ? html`<span class="badge">off</span>` : html`<${State} draft=${draft} rewriting=${panel.rewriting} />`}</h2>
      ${!isReadOnly && !call.closed && !mute && html`<div class="tools">
        <button class="quiet small" onClick=${hands.again} title="Write it again">again <kbd>R</kbd></button>
        ${draft?.state === 'done' && draft.verdict !== 'edited' && panel.edited === null && html`
          <button class="quiet small" onMouseDown=${keepSelection} onClick=${hands.rewrite} title="Rewrite only the words you selected">rewrite selection <kbd>E</kbd></button>`}
      </div>`}
    </header>
    ${mute && html`<p class="draft-off" role="status">${mute}</p>`}
    ${panel.edited !== null ? html`<${Editor} text=${panel.edited.text} hands=${hands} />`
      : (!mute || draft?.text) && html`<${DraftText} draft=${draft} panel=${panel} call=${call} hands=${hands} />`}
    ${draft && (!mute || draft.text) && panel.edited === null && html`<${Foot} call=${call} draft=${draft} isReadOnly=${isReadOnly} hands=${hands} />`}
  </section>`;
}

const keepSelection = (event) => event.preventDefault();

function State({ draft, rewriting }) {
  if (!draft) return null;
  if (draft.verdict) {
    const words = { accepted: '✓ used', edited: '✓ used, edited', rejected: '✕ rejected' };
    return html`<span class=${`badge ${draft.verdict === 'rejected' ? '' : 'tone-good'}`}>${words[draft.verdict]}</span>`;
  }
  if (rewriting && draft.state === 'done') return html`<span class="badge tone-accent">rewriting</span>`;
  const states = {
    writing: ['writing', 'tone-accent'], done: null,
    dropped: [draft.error ? 'no answer' : 'overtaken', ''], failed: ['failed', 'tone-warn'],
  };
  const state = states[draft.state];
  return state && html`<span class=${`badge ${state[1]}`}>${state[0]}</span>`;
}

function DraftText({ draft, panel, call, hands }) {
  const box = useRef(null);
  const tallest = useRef(0);
  const words = useRef({ first: -1, last: -1 });

  // The box never shrinks while the model writes: what stands below it does not jump.
  useLayoutEffect(() => {
    const element = box.current;
    if (!element) return;
    if (draft?.state !== 'writing') tallest.current = 0;
    element.style.minHeight = '';
    tallest.current = Math.max(tallest.current, element.offsetHeight);
    if (draft?.state === 'writing') element.style.minHeight = `${tallest.current}px`;
  }, [draft?.id, draft?.text, draft?.tentative_text, draft?.state]);

  if (!draft) {
    return html`<p class="draft-text faint" ref=${box}>${call.closed ? 'No answer was drafted in this call.'
      : 'When the customer asks something, an answer is drafted here.'}</p>`;
  }
  if (draft.state === 'failed' && !draft.text) {
    return html`<p class="draft-text" ref=${box}>No draft: ${draft.error ?? 'the assistant could not write one'}.
      <span class="faint"> Transcript, emotion and cards go on.</span></p>`;
  }
  if (draft.state === 'dropped' && !draft.text && draft.error) {
    return html`<p class="draft-text faint" ref=${box}>No draft this time: ${draft.error}.</p>`;
  }
  const hidden = panel.rewriting?.id === draft.id && draft.state === 'done' && panel.rewriting.text === draft.text
    ? panel.rewriting.spans : [];
  // Of a draft that was edited, what was said counts.
  const text = draftText(draft);
  const pieces = text !== draft.text ? draftPieces(text, '', quotesKept(draft.text, draft.quotes, text))
    : draftPieces(draft.text, draft.tentative_text ?? '', draft.quotes, hidden, draft.original?.text);
  const isWriting = draft.state === 'writing';

  const onKeyDown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    chooseWords(box.current, words.current, step, event.shiftKey);
  };
  const onClick = (event) => {
    const piece = event.target.closest?.('.quoted');
    if (piece && getSelection().isCollapsed) hands.showSource(piece.textContent.trim());
  };
  return html`<p class="draft-text" ref=${box} tabindex="0" id="draft-text" onKeyDown=${onKeyDown} onClick=${onClick}
      aria-label=${draft.state === 'writing' ? 'Draft being written' : undefined} aria-busy=${draft.state === 'writing'}>
    ${pieces.map((piece, index) => html`<${PieceView} key=${piece.key} piece=${piece} index=${index} isWriting=${isWriting} />`)}
  </p>`;
}

function PieceView({ piece, index, isWriting }) {
  // Only what comes while the model writes settles before the eye; what stood before does not move.
  const [isFresh] = useState(isWriting);
  if (piece.kind === 'mask') {
    // A word that waits to be rewritten keeps its width, so that its line stays.
    if (piece.text !== '░') return html`<span class="mask over" data-piece=${index} aria-hidden="true">${piece.text}</span>`;
    return html`<span class="mask" aria-hidden="true"></span>`;
  }
  const classes = `${piece.isQuoted ? 'quoted' : ''} ${piece.isSettled ? 'settled' : 'tentative'} ${isFresh ? 'fresh' : ''}`;
  return html`<span class=${classes} data-piece=${index}
    title=${piece.isQuoted ? 'Quoted from a card: click to see it' : undefined}>${piece.text}</span>`;
}

/** Moves the selection by whole words; with Shift it grows. */
function chooseWords(box, chosen, step, isGrowing) {
  const words = [...box.querySelectorAll('[data-piece]')];
  if (words.length === 0) return;
  const clamp = (index) => Math.min(words.length - 1, Math.max(0, index));
  chosen.last = clamp(chosen.last + step);
  if (!isGrowing || chosen.first < 0) chosen.first = chosen.last;
  const [from, to] = chosen.first <= chosen.last ? [chosen.first, chosen.last] : [chosen.last, chosen.first];
  getSelection().setBaseAndExtent(words[from], 0, words[to], words[to].childNodes.length);
}

/**
 * Returns the stretches of the draft that are selected on the page, whole words, in the offsets
 * that the server counts.
 * @param {import('../state/call.js').Draft} draft @returns {[number, number][]}
 */
export function selectedSpans(draft) {
  const box = document.getElementById('draft-text');
  const selection = getSelection();
  if (!box || !selection || selection.isCollapsed) return [];
  const pieces = draftPieces(draft.text, draft.tentative_text ?? '', draft.quotes);
  const spans = [];
  for (let index = 0; index < selection.rangeCount; index += 1) {
    const range = selection.getRangeAt(index);
    const touched = [...box.querySelectorAll('[data-piece]')].filter((word) => isTouched(range, word))
      .map((word) => Number(word.dataset.piece));
    const span = touched.length > 0 ? spanOf(pieces, touched[0], touched.at(-1)) : null;
    if (span) spans.push(span);
  }
  return spans;
}

/** Returns whether the range covers at least one letter of the word. */
function isTouched(range, word) {
  if (!range.intersectsNode(word)) return false;
  const common = document.createRange();
  common.selectNodeContents(word);
  if (range.compareBoundaryPoints(Range.START_TO_START, common) > 0) common.setStart(range.startContainer, range.startOffset);
  if (range.compareBoundaryPoints(Range.END_TO_END, common) < 0) common.setEnd(range.endContainer, range.endOffset);
  return common.toString().trim() !== '';
}

function Editor({ text, hands }) {
  const area = useRef(null);
  useLayoutEffect(() => {
    const element = area.current;
    element.focus();
    element.setSelectionRange(text.length, text.length);
    element.style.height = `${element.scrollHeight + 4}px`;
  }, []);
  return html`<div class="editor">
    <textarea ref=${area} class="draft-text" aria-label="Edit the draft" onInput=${(event) => hands.type(event.target.value)} value=${text}></textarea>
    <div class="row actions">
      <button class="primary" onClick=${hands.use}>Use <kbd>Ctrl Enter</kbd></button>
      <button onClick=${hands.stopEditing}>Back <kbd>Esc</kbd></button>
    </div>
  </div>`;
}

function Foot({ call, draft, isReadOnly, hands }) {
  const sources = draft.cards.map((key) => call.cards.find((card) => card.key === key)).filter(Boolean);
  const seconds = (new Date(draft.at) - new Date(draft.started_at)) / 1000;
  const isOpen = draft.state === 'done' && !draft.verdict && !isReadOnly && !call.closed;
  const titles = [...new Map(sources.map((card) => [`${card.base}/${card.article}`, card])).values()];
  return html`<footer class="draft-foot">
    <p class="sources faint">
      ${titles.length > 0 && html`from ${titles.map((card, index) => html`${index > 0 && ', '}<a key=${card.key} href=${`#card-${encodeURIComponent(card.key)}`}
        onClick=${(event) => { event.preventDefault(); hands.choose(card.key); }}>“${card.title}”</a> (v${card.version})`)}`}
      ${titles.length === 0 && draft.state === 'done' && 'rests on the conversation only'}
      ${draft.error && draft.text && html`<span class="tone-warn"> ${draft.error}</span>`}
    </p>
    ${draft.steps > 0 && html`<p class="faint number effort">${plural(draft.steps, 'step')} · ${plural(draft.tokens, 'token')}${seconds > 0 ? ` · ${seconds.toFixed(1)} s` : ''}</p>`}
    ${isOpen && html`<div class="row actions">
      <button class="primary" onClick=${hands.use}>Use <kbd>Ctrl Enter</kbd></button>
      <button onClick=${hands.startEditing}>Edit</button>
      <button onClick=${hands.reject}>Reject <kbd>X</kbd></button>
    </div>`}
  </footer>`;
}
