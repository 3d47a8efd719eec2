// `/try`, in the demo only: the visitor types what the customer says, and sees the agent's panel
// of that call beside it. What the agent uses of a draft is said to the customer.

import { useEffect, useMemo, useRef, useState } from 'preact/hooks';

import { html } from '../html.js';
import { CallPanel } from '../parts/call_panel.js';
import { Empty } from '../parts/failure.js';
import { Redacted } from '../parts/transcript.js';
import { loadTitles, titles } from '../bases.js';
import { session } from '../session.js';
import { startPlaying } from '../parts/player.js';
import { watchCall } from '../state/live.js';

/** A question that the company's articles answer, by base. */
const QUESTIONS = {
  tel: 'my engineer never turned up today, do I get anything back for that',
  bank: 'I lost my card yesterday, how do I get a new one',
  energy: 'I cannot pay the whole bill at once, can I spread it over a few months',
  shop: 'the jacket does not fit, how long do I have to send it back',
};
const ANY_QUESTION = 'how do I make a complaint';
const FIRST_CHOICE = 'tel';

/** What to say, by what it shows. */
const PROMPTS = [
  ['worry', 'I am really scared that I will lose my money, what happens if I miss the deadline'],
  ['get angry', 'this is the third time I call about this and nobody does anything, it is a disgrace'],
  ['read out a card number', 'sure, it is four one one one, one one one one, one one one one, one one one one'],
  ['give an e-mail address', 'you can write to me at jo.smith@example.com'],
  ['threaten', 'if this is not sorted out today I will get a lawyer'],
  ['say thanks', 'oh that is wonderful, thank you so much for sorting it out'],
];

/** Returns a name for a new call that people may feed. */
function newCall() {
  const bytes = crypto.getRandomValues(new Uint8Array(6));
  return `try-${[...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}

export function Try() {
  const [call, setCall] = useState(newCall);
  const [base, setBase] = useState(null);
  useEffect(() => {
    loadTitles().then(() => {
      const bases = Object.keys(titles.value);
      setBase(bases.includes(FIRST_CHOICE) ? FIRST_CHOICE : bases[0] ?? '');
    });
  }, []);
  if (base === null) return html`<main id="main" class="page narrow"><p class="faint" role="status">Opening a call …</p></main>`;
  const onBase = (other) => {
    setBase(other);
    setCall(newCall());
  };
  return html`<${Play} key=${call} call=${call} base=${base} onBase=${onBase} onAgain=${() => setCall(newCall())} />`;
}

function Play({ call, base, onBase, onAgain }) {
  const [state, setState] = useState({ status: 'connecting' });
  const [text, setText] = useState('');
  const [live, setLive] = useState(null);
  const player = useMemo(() => startPlaying({ call, agent: session.value.name, knowledge: base ? [base] : [] }, setState), [call]);
  const input = useRef(null);
  const again = useRef(null);
  useEffect(() => {
    input.current?.focus();
    return player.end;
  }, [player]);
  useEffect(() => { if (state.status === 'stopped') again.current?.focus(); }, [state.status]);
  // The call is there to be watched once the ingest has started it.
  const hasStarted = useRef(false);
  hasStarted.current ||= state.status === 'live';
  const isStarted = hasStarted.current;
  useEffect(() => {
    if (!isStarted) return undefined;
    const watched = watchCall(call, player.started);
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
  const isOver = ['ended', 'stopped'].includes(state.status) || live?.call.value.closed;
  const isRefused = state.status === 'stopped' && !live;
  const onUse = useMemo(() => (used) => player.say('agent', used), [player]);
  const prompts = [['ask something', QUESTIONS[base] ?? ANY_QUESTION], ...PROMPTS];
  return html`<main id="main" tabindex="-1" class="try">
    <section class="customer-side" aria-label="You are the customer">
      <header><h1>You are the customer</h1>
        <p class="faint">Type; the assistant listens as you do. <kbd>Enter</kbd> says it.</p>
        <label class="whom"><span>You are calling</span><select value=${base} onChange=${(event) => onBase(event.target.value)}>
          ${Object.entries(titles.value).map(([id, title]) => html`<option key=${id} value=${id}>${title}</option>`)}</select></label></header>
      <${Chat} call=${live?.call.value} isOver=${isOver} />
      ${state.error && html`<p class="problem" role="alert">${state.status === 'stopped' && html`<strong>${live ? 'The call cannot go on.' : 'The call was refused.'}</strong> `}${state.error}</p>`}
      ${state.status === 'lost' && html`<p class="problem" role="status">${isStarted ? 'Connection lost' : 'The server does not answer'}, trying again …</p>`}
      ${isOver ? html`<div class="row"><button class="primary" onClick=${onAgain} ref=${again}>Start a new call</button></div>` : html`
        <form class="composer" onSubmit=${say}>
          <textarea ref=${input} id="customer-says" rows="2" value=${text} aria-label="What the customer says" placeholder="Say something …" onInput=${(event) => type(event.target.value)}
            onKeyDown=${(event) => { if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) say(event); }}></textarea>
          <div class="row"><button class="primary" disabled=${!text.trim()}>Say it <kbd>Enter</kbd></button>
            <button type="button" class="quiet" onClick=${player.end}>Hang up</button></div>
        </form>
        <div class="prompts"><span class="faint">Try to</span>${prompts.map(([title, prompt]) => html`<button key=${title} class="small" onClick=${() => choose(prompt)}>${title}</button>`)}</div>`}
    </section>
    <section class="agent-side" aria-label="What the agent sees">
      <header class="caption-row"><h2 class="caption">What the agent sees</h2>${!isRefused && html`<a class="small" href=${`/calls/${encodeURIComponent(call)}`} target="_blank" rel="noopener">open in a tab of its own ↗</a>`}</header>
      ${live ? html`<${CallPanel} live=${live} isReadOnly=${false} onUse=${onUse} />` : isRefused ? html`<${Empty} title="The call did not begin"><p>What the agent sees appears here once a call is there.</p><//>` : html`<p class="faint pad" role="status">Connecting …</p>`}
    </section>
  </main>`;
}

/** The customer's own view: what was said, nothing of the assistant. */
function Chat({ call, isOver }) {
  const end = useRef(null);
  const said = (call?.segments ?? []).filter((segment) => segment.final);
  useEffect(() => { end.current?.scrollTo(0, end.current.scrollHeight); }, [said.length]);
  return html`<ol class="chat" ref=${end} aria-label="The conversation" aria-live="polite">
    ${said.map((segment) => html`<li key=${segment.id} class=${segment.speaker}><span class="visually-hidden">${segment.speaker}: </span><${Redacted} text=${segment.text} /></li>`)}
    ${said.length === 0 && !isOver && html`<li class="faint hint">Nobody has spoken yet. Type below, or take one of the proposals.</li>`}
  </ol>`;
}
