// The keys of the panel, in one list: the page listens by it and the help shows it.

import { useEffect } from 'preact/hooks';

import { html } from '../html.js';
import { Dialog } from './dialog.js';

/** Key, what the help calls it, and which hand it moves. */
export const KEYS = [
  { keys: ['1', '2', '3'], shown: '1 – 3', says: 'copy that card' },
  { keys: ['j'], shown: 'J', says: 'next item: draft, then cards' },
  { keys: ['k'], shown: 'K', says: 'item before' },
  { keys: ['p'], shown: 'P', says: 'pin the current card' },
  { keys: ['x'], shown: 'X', says: 'reject the draft; on a card: wrong, again to take it back' },
  { keys: ['o'], shown: 'O', says: 'open the current card' },
  { keys: ['ctrl+enter'], shown: 'Ctrl Enter', says: 'use the draft: copy it' },
  { keys: ['r'], shown: 'R', says: 'write the draft again' },
  { keys: ['e'], shown: 'E', says: 'rewrite the selected words; with none selected: edit' },
  { keys: [], shown: '← →', says: 'choose words of the focused draft, with Shift more' },
  { keys: ['/'], shown: '/', says: 'search the knowledge base' },
  { keys: ['f'], shown: 'F', says: 'ask a supervisor for help' },
  { keys: ['n'], shown: 'N', says: 'next call, once this one has ended' },
  { keys: ['?'], shown: '?', says: 'these keys' },
  { keys: ['escape'], shown: 'Esc', says: 'close, or put a whisper away' },
];

/** Listens on the whole page. Letters typed into a field are the field's. @param {(key: string) => void} onKey */
export function useKeys(onKey) {
  useEffect(() => {
    const listen = (event) => {
      if (event.defaultPrevented || event.altKey || event.isComposing) return;
      const isEnter = event.key === 'Enter' && (event.ctrlKey || event.metaKey);
      if (!isEnter && (event.ctrlKey || event.metaKey)) return;
      if (document.querySelector('dialog[open]')) return;
      const isField = event.target.closest?.('input, textarea, select, [contenteditable]');
      const key = isEnter ? 'ctrl+enter' : event.key.toLowerCase();
      if (isField && key !== 'escape' && !(isEnter && event.target.closest('.editor'))) return;
      if (!KEYS.some((entry) => entry.keys.includes(key))) return;
      event.preventDefault();
      onKey(key);
    };
    document.addEventListener('keydown', listen);
    return () => document.removeEventListener('keydown', listen);
  }, [onKey]);
}

/** @param {{onClose: () => void}} props */
export function KeyHelp({ onClose }) {
  return html`<${Dialog} title="Keys" onClose=${onClose}>
    <dl class="keys">${KEYS.map((entry) => html`<div key=${entry.shown}><dt><kbd>${entry.shown}</kbd></dt><dd>${entry.says}</dd></div>`)}</dl>
  <//>`;
}
