// A modal dialog on the browser's own <dialog>: focus stays inside, Escape closes.

import { useEffect, useRef } from 'preact/hooks';

import { html } from '../html.js';

/** @param {{title: string, onClose: () => void, children?: any, kind?: string}} props */
export function Dialog({ title, onClose, children, kind = '' }) {
  const ref = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    ref.current.showModal();
    return () => before?.focus?.();
  }, []);
  return html`<dialog ref=${ref} class=${`dialog ${kind}`} aria-label=${title}
    onClose=${onClose} onClick=${(event) => { if (event.target === ref.current) onClose(); }}>
    <div class="dialog-body">
      <header class="dialog-head"><h2>${title}</h2>
        <button class="quiet small" onClick=${onClose} aria-label="Close">Esc</button></header>
      ${children}
    </div>
  </dialog>`;
}
