// Something that is shown this once: a one-time link, a key.

import { useState } from 'preact/hooks';

import { html } from '../html.js';
import { copy } from '../clipboard.js';

/** @param {{title: string, value: string, says: string, onDone: () => void}} props */
export function Secret({ title, value, says, onDone }) {
  const [isCopied, setCopied] = useState(false);
  return html`<div class="secret" role="status">
    <p><strong>${title}</strong> <span class="faint">${says}</span></p>
    <div class="row"><input class="grow" readonly value=${value} aria-label=${title} onFocus=${(event) => event.target.select()} />
      <button onClick=${async () => setCopied(await copy(value))}>${isCopied ? '✓ copied' : 'Copy'}</button>
      <button class="quiet" onClick=${onDone}>Done</button></div>
  </div>`;
}
