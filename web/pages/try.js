// `/try`, in the demo only: the visitor types what the customer says, and sees the agent's panel
// of that call beside it. What the agent uses of a draft is said to the customer.

import { useEffect, useMemo, useRef, useState } from 'preact/hooks';

import { html } from '../html.js';
import { CallPanel } from '../parts/call_panel.js';
import { Problem } from '../parts/failure.js';
import { Redacted } from '../parts/transcript.js';
import { loadTitles, named } from '../bases.js';
import { post } from '../api.js';
import { session } from '../session.js';
import { startPlaying } from '../parts/player.js';
import { watchCall } from '../state/live.js';

/** What to say, by what it shows. */
const PROMPTS = [
  ['ask something', 'my engineer never turned up today, do I get anything back for that'],
  ['ask about a card', 'I lost my card yesterday, how do I get a new one'],
  ['worry', 'I am scared I cannot pay this bill before Friday, what happens then'],
  ['get angry', 'this is the third time I call about this and nobody does anything, it is a disgrace'],
  ['read out a card number', 'sure, it is four one one one, one one one one, one one one one, one one one one'],
  ['give an e-mail address', 'you can write to me at jo dot smith at example dot com'],
  ['say thanks', 'oh that is wonderful, thank you so much for sorting it out'],
];

export function Try() {
  const [call, setCall] = useState(null);
  const [error, setError] = useState(null);
  const start = async () => {
    setError(null);
    try {
      setCall((await post('/v1/try')).call);
    } catch (failure) {
      setError(failure);
    }
  };
  useEffect(() => {
    loadTitles();
    start();
  }, []);
  if (!call) {
    return html`<main id="main" tabindex="-1" class="page narrow"><h1>Play the customer</h1>
      ${error ? html`<${Problem} error=${error} /><div class="row"><button class="primary" onClick=${start}>Try again</button></div>`
        : html`<p class="faint" role="status">Opening a call …</p>`}</main>`;
  }
  return html`<${Play} key=${call} call=${call} onAgain=${() => { setCall(null); start(); }} />`;
}

function Play({ call, onAgain }) {
  const [state, setState] = useState({ status: 'connecting' });
  const [text, setText] = useState('');
  const [live, setLive] = useState(null);
  const player = useMemo(() => startPlaying(call, session.value.name, setState), [call]);
  const input = useRef(null);
  useEffect(() => {
    input.current?.focus();
    return player.end;
  }, [player]);
  // The call is there to be watched once the ingest has started it.
  const isStarted = state.status !== 'connecting';
  useEffect(() => {
    if (!isStarted) return undefined;
    const watched = watchCall(call);
    setLive(watched);
    return watched.stop;
  }, [call, isStarted]);

  const say = (event) => {
    event.preventDefault();
    if (!text.trim()) return;
    player.say('customer', text.trim());
    setText('');
  };
  const type = (value) => {
    setText(value);
    player.typing(value);
  };
  const choose = (prompt) => {
    type(prompt);
    input.current?.focus();
  };
  const isOver = state.status === 'ended' || live?.call.value.closed;
  const onUse = useMemo(() => (used) => player.say('agent', used), [player]);
  const knowledge = live?.call.value.opened?.knowledge ?? [];
  return html`<main id="main" tabindex="-1" class="try">
    <section class="customer-side" aria-label="You are the customer">
      <header><h1>You are the customer</h1>
        <p class="faint">${knowledge.length > 0 ? `You are calling ${named(knowledge)}. ` : ''}Type; the assistant listens as you do. <kbd>Enter</kbd> says it.</p></header>
      <${Chat} call=${live?.call.value} />
      ${state.error && html`<p class="problem" role="alert">${state.error}</p>`}
      ${state.status === 'lost' && html`<p class="problem" role="status">Connection lost, coming back …</p>`}
      ${isOver ? html`<div class="row"><button class="primary" onClick=${onAgain}>Call again</button></div>` : html`
        <form class="composer" onSubmit=${say}>
          <textarea ref=${input} id="customer-says" rows="2" value=${text} aria-label="What the customer says" placeholder="Say something …" onInput=${(event) => type(event.target.value)}
            onKeyDown=${(event) => { if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) say(event); }}></textarea>
          <div class="row"><button class="primary" disabled=${!text.trim()}>Say it <kbd>Enter</kbd></button>
            <button type="button" class="quiet" onClick=${player.end}>Hang up</button></div>
        </form>
        <div class="prompts"><span class="faint">Try to</span>${PROMPTS.map(([title, prompt]) => html`<button key=${title} class="small" onClick=${() => choose(prompt)}>${title}</button>`)}</div>`}
    </section>
    <section class="agent-side" aria-label="What the agent sees">
      <header class="caption-row"><h2 class="caption">What the agent sees</h2><a class="small" href=${`/calls/${encodeURIComponent(call)}`} target="_blank" rel="noopener">open in a tab of its own ↗</a></header>
      ${live ? html`<${CallPanel} live=${live} isReadOnly=${false} onUse=${onUse} />` : html`<p class="faint pad" role="status">Connecting …</p>`}
    </section>
  </main>`;
}

/** The customer's own view: what was said, nothing of the assistant. */
function Chat({ call }) {
  const end = useRef(null);
  const said = (call?.segments ?? []).filter((segment) => segment.final);
  useEffect(() => { end.current?.scrollTo(0, end.current.scrollHeight); }, [said.length]);
  return html`<ol class="chat" ref=${end} aria-label="The conversation" aria-live="polite">
    ${said.map((segment) => html`<li key=${segment.id} class=${segment.speaker}><span class="visually-hidden">${segment.speaker}: </span><${Redacted} text=${segment.text} /></li>`)}
    ${said.length === 0 && html`<li class="faint hint">Nobody has spoken yet. Type below, or take one of the proposals.</li>`}
  </ol>`;
}
