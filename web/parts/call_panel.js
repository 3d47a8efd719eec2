// A call on one screen: strip, transcript, draft, cards, whisper. For the agent to work with, for
// a supervisor to read and whisper.

import { useCallback, useEffect, useMemo, useState } from 'preact/hooks';

import { html } from '../html.js';
import { Cards } from './cards.js';
import { Checklist } from './checklist.js';
import { Dialog } from './dialog.js';
import { DraftCard } from './draft.js';
import { KeyHelp, useKeys } from './keys.js';
import { Ended } from './ended.js';
import { SearchDialog } from './search.js';
import { Transcript } from './transcript.js';
import { Vitals } from './vitals.js';
import { copy } from '../clipboard.js';
import { nameOf, titles } from '../bases.js';
import { makeHands, pressed } from './hands.js';
import { useAssistant } from './use_assistant.js';

const NOTICE_MS = 4000;

/**
 * @param {{
 *   live: import('../state/live.js').LiveCall,
 *   isReadOnly: boolean,
 *   next?: {call: string, label: string}|null,
 *   onNext?: () => void,
 *   onUse?: (text: string) => void,
 * }} props
 */
export function CallPanel({ live, isReadOnly, next = null, onNext = () => {}, onUse }) {
  const hands = useMemo(() => makeHands(live, { onUse }), [live]);
  const call = live.call.value;
  const panel = live.panel.value;
  const draft = live.shown.value;
  useAssistant();
  useKeys(useCallback((key) => {
    if (isReadOnly && !['?', 'escape', 'n', '1', '2', '3', '/', 'o'].includes(key)) return;
    pressed(key, hands, live, onNext);
  }, [hands, live, isReadOnly, onNext]));

  useEffect(() => {
    if (!panel.notice) return undefined;
    const timer = setTimeout(hands.unnotice, NOTICE_MS);
    return () => clearTimeout(timer);
  }, [panel.notice]);

  useEffect(() => { document.title = `${call.opened ? nameOf({ ...call.opened, call: call.call }) : 'Call'} · ChatDLM`; }, [call.opened, titles.value]);

  const onCopyFound = async (card) => {
    const isCopied = await copy(card.passage);
    hands.search(false);
    live.dispatch({ do: 'notice', text: isCopied ? `Copied “${card.title}”.` : 'The browser did not allow copying.', tone: isCopied ? 'plain' : 'bad' });
  };
  const isLost = live.link.value.status === 'lost' && !call.closed;
  return html`<div class=${`call ${isLost ? 'is-lost' : ''}`}>
    <${Vitals} live=${live} isReadOnly=${isReadOnly} hands=${hands} />
    ${call.closed && html`<${Ended} call=${call} panel=${panel} isReadOnly=${isReadOnly} next=${next} onNext=${onNext} />`}
    <div class="work">
      <div class="assist">
        <${DraftCard} call=${call} draft=${draft} panel=${panel} isReadOnly=${isReadOnly} hands=${hands} />
        <${Cards} call=${call} panel=${panel} isReadOnly=${isReadOnly} hands=${hands} />
      </div>
      <${Transcript} call=${call} />
    </div>
    <footer class="foot">
      <${Checklist} call=${call} />
      <${Whispers} call=${call} panel=${panel} isReadOnly=${isReadOnly} hands=${hands} />
    </footer>
    ${panel.notice && html`<p class=${`toast tone-${panel.notice.tone}`} role="status">${panel.notice.text}</p>`}
    ${panel.isSearching && html`<${SearchDialog} bases=${call.opened?.knowledge ?? []} onCopy=${onCopyFound} onClose=${() => hands.search(false)} />`}
    ${panel.isHelping && html`<${KeyHelp} onClose=${() => hands.help(false)} />`}
    ${panel.isFlagging && html`<${FlagDialog} hands=${hands} />`}
  </div>`;
}

/** The whisper line: the agent reads it, a supervisor writes it. */
function Whispers({ call, panel, isReadOnly, hands }) {
  const [text, setText] = useState('');
  const unread = call.notes.length > panel.notesRead ? call.notes.at(-1) : null;
  const send = async (event) => {
    event.preventDefault();
    if (text.trim() && await hands.whisper(text.trim())) setText('');
  };
  if (isReadOnly) {
    return html`<div class="whispers">
      ${call.notes.length > 0 && html`<p class="sent"><span class="faint">${call.notes.at(-1).from} whispered</span> “${call.notes.at(-1).text}”</p>`}
      ${call.closed ? html`<p class="faint">The call has ended: nobody would read a whisper.</p>`
        : html`<form class="row grow" onSubmit=${send}>
          <input value=${text} onInput=${(event) => setText(event.target.value)} maxlength="500" aria-label="Whisper to the agent" placeholder=${`Whisper to ${call.opened?.agent ?? 'the agent'}; the customer does not see it`} />
          <button class="primary" disabled=${!text.trim()}>Whisper</button></form>`}
    </div>`;
  }
  if (!unread) return null;
  return html`<div class="whispers unread">
    <p><strong>${unread.from}</strong> <span class="faint">whispers</span> <span class="whisper-text">${unread.text}</span></p>
    <button class="quiet small" onClick=${hands.readNotes}>got it <kbd>Esc</kbd></button>
  </div>`;
}

function FlagDialog({ hands }) {
  const [message, setMessage] = useState('');
  const send = (event) => {
    event.preventDefault();
    hands.flag(message.trim() || 'Please look at this call.');
  };
  return html`<${Dialog} title="Ask a supervisor for help" onClose=${() => hands.askForHelp(false)}>
    <form class="stack" onSubmit=${send}>
      <label><span>What do you need? <span class="faint">(may stay empty)</span></span>
        <input value=${message} onInput=${(event) => setMessage(event.target.value)} maxlength="300" autofocus placeholder="May I waive the fee?" /></label>
      <div class="row"><button class="primary">Flag the call <kbd>Enter</kbd></button></div>
    </form><//>`;
}
