// One watched call: the socket feeds the fold, and what is worth hearing is announced. This is the
// only place that holds the signals of a call page.

import { signal } from '@preact/signals';

import { act, emptyPanel } from './panel.js';
import { emptyCall, isGap, latestDraft, receive } from './call.js';
import { KEEPING, keep, kept } from './kept.js';
import { interrupt, say } from '../announce.js';
import { paced } from '../pace.js';
import { perFrame, watch } from '../socket.js';
import { plural } from '../text.js';

// Older envelopes were fetched to catch up and are not announced; those from before the connection
// say nothing of the lag either.
const LIVE_WITHIN_MS = 10_000;
const LAGS_KEPT = 20;

/** @typedef {ReturnType<typeof watchCall>} LiveCall */

/**
 * Starts watching a call.
 * @param {string} id @param {string|number|null} [startedAt] when it began, if that is known: the log begins when the server heard of it
 */
export function watchCall(id, startedAt = null) {
  const call = signal(emptyCall(id));
  const panel = signal({ ...emptyPanel(), ...kept(id) });
  const link = signal(/** @type {import('../socket.js').Link} */ ({ status: 'connecting', since: Date.now() }));
  const lags = signal(/** @type {number[]} */ ([]));
  // The draft as drawn: the same steps as the newest one's, at a pace that the eye can follow.
  const shown = signal(/** @type {import('./call.js').Draft|null} */ (null));
  const pace = paced((draft) => { shown.value = draft; });
  const dispatch = (action) => {
    panel.value = act(panel.value, action);
    if (KEEPING.includes(action.do)) keep(id, panel.value);
  };

  const take = perFrame((envelopes) => {
    let state = call.value;
    let isMissing = false;
    for (const envelope of envelopes) {
      if (isGap(state, envelope)) {
        isMissing = true;
        break;
      }
      const before = latestDraft(state);
      const wasOnHold = state.voice?.on_hold ?? false;
      state = receive(state, envelope);
      const isOnHold = state.voice?.on_hold ?? false;
      if (isOnHold !== wasOnHold && envelope.tentative) say(isOnHold ? 'The call is on hold' : 'The call goes on');
      const draft = latestDraft(state);
      if (draft === before) continue;
      if (isRecent(envelope)) pace.push(draft);
      else pace.skipTo(draft);
    }
    const hadCards = call.value.cards !== state.cards;
    call.value = state;
    if (hadCards) dispatch({ do: 'arrange', cards: state.cards });
    if (envelopes.some((envelope) => envelope.type === 'draft')) dispatch({ do: 'rewrite', rewriting: null });
    if (isMissing) socket.again();
  });

  const socket = watch({
    path: () => `/v1/calls/${encodeURIComponent(id)}/events?after=${call.value.seq}`,
    onLink: (value) => { link.value = value; },
    onMessage: (envelope) => {
      if (typeof envelope.seq !== 'number') return;
      if (isRecent(envelope)) {
        const lag = Date.now() - new Date(envelope.at).getTime();
        if (Date.now() - lag > link.value.since) lags.value = [...lags.value, Math.max(0, lag)].slice(-LAGS_KEPT);
        announce(envelope);
      }
      // What goes on between two of them is counted from here.
      take(envelope.type === 'voice' && envelope.tentative ? { ...envelope, heard_at: Date.now() } : envelope);
    },
  });

  return { id, startedAt, call, panel, link, lags, shown, dispatch, stop: socket.stop };
}

const isRecent = (envelope) => Date.now() - new Date(envelope.at).getTime() < LIVE_WITHIN_MS;

function announce(envelope) {
  switch (envelope.type) {
    case 'note':
      return interrupt(`${envelope.from} whispers: ${envelope.text}`);
    case 'alert':
      return envelope.severity === 'info' || envelope.kind === 'flag' ? say(envelope.message) : interrupt(envelope.message);
    case 'cards':
      return say(`${plural(envelope.cards.length, 'card')}: ${envelope.cards.map((card) => card.title).join(', ')}`);
    case 'draft':
      return envelope.state === 'done' ? say(`Draft ready: ${envelope.text}`) : undefined;
    case 'summary':
      return say(`Summary: ${envelope.text}`);
    case 'call_closed':
      return say('The call has ended');
    default:
      return undefined;
  }
}
