// `/calls/{call}`: the agent's live assist, or a supervisor's view of it.

import { useCallback, useEffect, useState } from 'preact/hooks';

import { html } from '../html.js';
import { CallPanel } from '../parts/call_panel.js';
import { Failure } from '../parts/failure.js';
import { get, v1 } from '../api.js';
import { go } from '../router.js';
import { homeOf, session } from '../session.js';
import { loadTitles, nameOf, named, titles } from '../bases.js';
import { useOpenCalls } from '../parts/open_calls.js';
import { watchCall } from '../state/live.js';

/** @param {{argument: string}} props the call's name */
export function Call({ argument }) {
  const [live, setLive] = useState(null);
  const [error, setError] = useState(null);
  const isAgent = session.value.role === 'agent';
  useEffect(() => {
    let isGone = false;
    let started = null;
    if (Object.keys(titles.value).length === 0) loadTitles();
    // A socket cannot say why it was refused; the resource can.
    get(v1('calls', argument)).then((record) => {
      if (isGone) return;
      started = watchCall(argument, record?.started_at);
      setLive(started);
    }, (failure) => { if (!isGone) setError(failure); });
    return () => {
      isGone = true;
      started?.stop();
    };
  }, [argument]);

  const { calls } = useOpenCalls();
  const other = isAgent ? (calls ?? []).find((call) => call.call !== argument) : null;
  const next = other ? { call: other.call, label: nameOf(other) } : null;
  const onNext = useCallback(() => {
    if (live?.call.value.closed) go(next ? `/calls/${encodeURIComponent(next.call)}` : homeOf(session.value));
  }, [live, next?.call]);

  if (error) {
    const title = error.status === 404 ? 'There is no such call' : error.status === 403 ? 'This call is not yours to see' : 'The call cannot be shown';
    return html`<main id="main" tabindex="-1" class="page"><${Failure} title=${title} message=${error.message} id=${error.id}>
      <a class="button" href=${homeOf(session.value)}>Go to your start page</a><//></main>`;
  }
  if (!live) return html`<main id="main" tabindex="-1" class="page wait" role="status">Opening the call …</main>`;
  return html`<main id="main" tabindex="-1" class="call-page">
    ${isAgent && calls?.length > 1 && html`<nav class="other-calls" aria-label="Your open calls">
      ${calls.map((call) => html`<a key=${call.call} href=${`/calls/${encodeURIComponent(call.call)}`}
        aria-current=${call.call === argument ? 'page' : undefined}>${nameOf(call)}${call.customer && html`<span class="faint"> ${named(call.knowledge ?? [])}</span>`}</a>`)}
    </nav>`}
    <${CallPanel} live=${live} isReadOnly=${!isAgent} next=${next} onNext=${onNext} />
  </main>`;
}
