// The product's mark.

import { html } from '../html.js';

/** The mark: a text, some of it still masked. */
export function Mark() {
  return html`<svg class="mark" viewBox="0 0 20 14" width="20" height="14" aria-hidden="true">
    <rect x="0" y="0" width="9" height="4" rx="1.5" /><rect x="11" y="0" width="9" height="4" rx="1.5" class="dim" />
    <rect x="0" y="5" width="5" height="4" rx="1.5" class="dim" /><rect x="7" y="5" width="13" height="4" rx="1.5" />
    <rect x="0" y="10" width="13" height="4" rx="1.5" /><rect x="15" y="10" width="5" height="4" rx="1.5" class="dim" /></svg>`;
}
