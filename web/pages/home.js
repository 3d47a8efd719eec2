// `/` for agents: their open calls. After sign-in the newest opens by itself, and so does a call
// that is the only one; whoever comes back to a list of several wants to choose.

import { useEffect } from 'preact/hooks';

import { html } from '../html.js';
import { Empty, Problem } from '../parts/failure.js';
import { EmotionWord } from '../parts/emotion.js';
import { clock } from '../text.js';
import { go } from '../router.js';
import { loadTitles, nameOf, named } from '../bases.js';
import { now } from '../clock.js';
import { session } from '../session.js';
import { useOpenCalls } from '../parts/open_calls.js';

// The call that was opened by itself last: going back to the list shows the list.
let opened = '';

export function Home() {
  const { calls, error } = useOpenCalls();
  const newest = calls?.[0];
  useEffect(() => { loadTitles(); }, []);
  useEffect(() => {
    const isChoice = opened !== '' && calls?.length > 1;
    if (!newest || newest.call === opened || isChoice) return;
    opened = newest.call;
    go(`/calls/${encodeURIComponent(newest.call)}`);
  }, [newest?.call]);

  return html`<main id="main" tabindex="-1" class="page narrow">
    <h1>My calls</h1>
    <${Problem} error=${error} />
    ${calls === null && !error && html`<p class="faint" role="status">Looking for your calls …</p>`}
    ${calls?.length === 0 && html`<${Empty} title="No call is open">
      <p>Your next call opens here by itself as soon as it begins.</p>
      ${session.value.demo && html`<div class="row"><a class="button primary" href="/try">Play a customer</a></div>`}<//>`}
    ${calls?.length > 0 && html`<ul class="call-list">
      ${calls.map((call) => html`<li key=${call.call}><a href=${`/calls/${encodeURIComponent(call.call)}`}>
        <span class="number">${clock(now.value - new Date(call.started_at).getTime())}</span>
        <span><strong>${nameOf(call)}</strong> <span class="faint">${[call.customer && named(call.knowledge ?? []), call.channel].filter(Boolean).join(' · ')}</span>
          ${call.last_text && html`<span class="last">${call.last_speaker === 'customer' ? '' : 'you: '}${call.last_text}</span>`}</span>
        ${call.emotion && html`<${EmotionWord} mood=${call.emotion} />`}</a></li>`)}
    </ul>`}
  </main>`;
}
