// Search over the knowledge bases: type, see passages, copy one.

import { useEffect, useState } from 'preact/hooks';

import { html } from '../html.js';
import { get, listOf } from '../api.js';
import { Dialog } from './dialog.js';
import { Passage, Strength } from './cards.js';
import { Problem } from './failure.js';
import { cardKey } from '../state/call.js';
import { named } from '../bases.js';
import { strength } from '../text.js';

const WAIT_MS = 140;

/**
 * Asks for passages as the text changes; a newer text cancels the older question.
 * @param {string} query @param {string[]} bases none for all @param {number} limit
 * @param {number} [round] asks the same again when it changes
 */
export function usePassages(query, bases, limit, round = 0) {
  const [answer, setAnswer] = useState({ cards: [], error: null, query: '', isBusy: false });
  useEffect(() => {
    const text = query.trim();
    if (!text) {
      setAnswer({ cards: [], error: null, query: '', isBusy: false });
      return undefined;
    }
    const control = new AbortController();
    const timer = setTimeout(async () => {
      setAnswer((before) => ({ ...before, isBusy: true }));
      try {
        const asked = new URLSearchParams({ q: text, limit: String(limit), base: bases.join(',') });
        const cards = listOf(await get(`/v1/knowledge/search?${asked}`, control.signal), 'passages');
        setAnswer({ cards, error: null, query: text, isBusy: false });
      } catch (error) {
        if (error.name !== 'AbortError') setAnswer({ cards: [], error, query: text, isBusy: false });
      }
    }, WAIT_MS);
    return () => {
      clearTimeout(timer);
      control.abort();
    };
  }, [query, bases.join(' '), limit, round]);
  return answer;
}

/** @param {{bases: string[], onCopy: (card: any) => void, onClose: () => void}} props */
export function SearchDialog({ bases, onCopy, onClose }) {
  const [query, setQuery] = useState('');
  const [at, setAt] = useState(0);
  const { cards, error, query: asked } = usePassages(query, bases, 8);
  useEffect(() => { setAt(0); }, [asked]);
  const onKeyDown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      setAt(Math.min(cards.length - 1, Math.max(0, at + step)));
    } else if (event.key === 'Enter' && cards[at]) {
      event.preventDefault();
      onCopy(cards[at]);
    }
  };
  return html`<${Dialog} title="Search the knowledge base" onClose=${onClose} kind="wide">
    <input type="text" inputmode="search" class="big" value=${query} onInput=${(event) => setQuery(event.target.value)} onKeyDown=${onKeyDown}
      placeholder="refund after 30 days" aria-label="Search" aria-describedby="search-hint" autocomplete="off" spellcheck="false" autofocus />
    <p class="faint" id="search-hint">${bases.length > 0 ? `In ${named(bases)}. ` : ''}<kbd>↑</kbd> <kbd>↓</kbd> to move, <kbd>Enter</kbd> to copy.</p>
    <${Problem} error=${error} />
    <${PassageList} cards=${cards} chosen=${at} asked=${asked} onCopy=${onCopy} />
  <//>`;
}

/** @param {{cards: any[], asked: string, chosen?: number, isExact?: boolean, onCopy?: (card: any) => void}} props `isExact` shows scores as numbers too */
export function PassageList({ cards, asked, chosen = -1, isExact = false, onCopy }) {
  const best = cards[0]?.score ?? 0;
  if (asked && cards.length === 0) return html`<p class="pad" role="status">Nothing matches “${asked}”. Try the words the article would use.</p>`;
  return html`<ol class="card-list found" aria-label="Passages">
    ${cards.map((card, index) => html`<li key=${cardKey(card)} class=${`card ${index === chosen ? 'current' : ''}`} aria-current=${index === chosen}>
      <header><h3>${card.title}</h3>${isExact && html`<span class="faint number">${card.score.toFixed(2)}</span>`}<${Strength} word=${strength(card.score, best)} score=${card.score} /></header>
      <p class="passage"><${Passage} card=${card} /></p>
      <footer><span class="faint">${card.base} · v${card.version}</span>
        ${onCopy && html`<span class="card-tools"><button class="quiet small" onClick=${() => onCopy(card)}>copy</button></span>`}</footer>
    </li>`)}
  </ol>`;
}
