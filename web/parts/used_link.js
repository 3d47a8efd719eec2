// A one-time link that no longer works leads to `/?link=used`: who followed it is told so, on the
// sign-in form or, where another session is alive, on the page that opens instead.

import { signal } from '@preact/signals';

import { html } from '../html.js';
import { session } from '../session.js';

/** Whether the page was opened by such a link, until somebody has read it. */
export const usedLink = signal(false);

/** Reads the address, and takes the question out of it: a reload tells nothing twice. */
export function readLink() {
  const query = new URLSearchParams(location.search);
  if (query.get('link') !== 'used') return;
  usedLink.value = true;
  query.delete('link');
  const rest = query.toString();
  history.replaceState(history.state, '', `${location.pathname}${rest && `?${rest}`}${location.hash}`);
}

/** Says as whom one is signed in, though not by that link. @param {{onLeave: () => void}} props */
export function UsedLink({ onLeave }) {
  if (!usedLink.value || !session.value) return null;
  const { name, role } = session.value;
  return html`<aside class="notice across" role="status">
    <span>That sign-in link was used already or has expired. You are still signed in as <strong>${name}</strong> (${role}).</span>
    <span class="row"><button class="small" onClick=${onLeave}>Sign in as somebody else</button>
      <button class="quiet small" onClick=${() => { usedLink.value = false; }}>Dismiss</button></span>
  </aside>`;
}
