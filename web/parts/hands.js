// What the agent can do on the panel: each hand changes the panel's state, tells the server, and
// says so when the server refuses.

import { copy } from '../clipboard.js';
import { draftText, latestDraft } from '../state/call.js';
import { assistant, whyNoDrafts } from '../session.js';
import { post, v1 } from '../api.js';
import { say } from '../announce.js';
import { selectedSpans } from './draft.js';

/**
 * @param {import('../state/live.js').LiveCall} live
 * @param {{onUse?: (text: string) => void}} [wishes] `onUse` also gets the text of a used draft
 */
export function makeHands({ id, call, panel, dispatch }, { onUse } = {}) {
  const notice = (text, tone) => dispatch({ do: 'notice', text, tone });
  const draft = () => latestDraft(call.value);
  const arrange = () => dispatch({ do: 'arrange', cards: call.value.cards });

  /** Tells the server; a refusal becomes a notice, and false. */
  async function tell(path, body) {
    try {
      await post(path, body);
      return true;
    } catch (error) {
      notice(error.message, 'bad');
      return false;
    }
  }

  const cardOf = (key) => call.value.cards.find((card) => card.key === key);

  /** Tells what a card was worth. @param {import('../state/call.js').Card} card @param {boolean|null} useful null takes it back */
  const judge = (card, useful) => tell(v1('calls', id, 'cards', card.id, 'feedback'), { useful, base: card.base });

  /** Says so where the model does not write now. @returns {boolean} */
  function isMute() {
    const reason = whyNoDrafts(assistant.value);
    if (reason) notice(reason, 'warn');
    return reason !== null;
  }

  const hands = {
    choose(item) {
      dispatch({ do: 'choose', item });
      document.getElementById(`card-${item}`)?.scrollIntoView({ block: 'nearest', behavior: 'smooth' });
    },
    move: (by) => {
      dispatch({ do: 'move', by });
      hands.choose(panel.value.current);
    },
    hold(isHeld) {
      dispatch({ do: 'hold', isHeld });
      if (!isHeld) arrange();
    },
    open: (card) => dispatch({ do: 'open', card }),
    pin(card) {
      dispatch({ do: 'pin', card });
      if (!panel.value.isHeld) arrange();
    },
    async wrong(key) {
      const card = cardOf(key);
      if (!card) return;
      const isWrong = !panel.value.wrong[key];
      dispatch({ do: 'wrong', card: key, isWrong });
      notice(isWrong ? 'Marked as wrong. Press X again to take it back.' : 'Taken back: no longer marked as wrong.');
      // What is taken back leaves what stood before: a copied card was useful, another nothing.
      const before = panel.value.copied[key] ? true : null;
      if (!await judge(card, isWrong ? false : before)) dispatch({ do: 'wrong', card: key, isWrong: !isWrong });
    },
    async copy(key) {
      const card = cardOf(key);
      if (!card) return undefined;
      if (!await copy(card.passage)) return notice('The browser did not allow copying.', 'bad');
      dispatch({ do: 'copied', card: key });
      notice(`Copied “${card.title}”.`);
      // Who marked it wrong and copies it all the same has not changed their mind.
      return panel.value.wrong[key] ? undefined : judge(card, true);
    },
    /** Shows the card that a quoted stretch stands in. */
    showSource(text) {
      const sources = (draft()?.cards ?? []).map(cardOf).filter(Boolean);
      const source = sources.find((card) => card.passage.includes(text)) ?? sources[0];
      if (!source) return;
      if (!panel.value.opened[source.key]) dispatch({ do: 'open', card: source.key });
      hands.choose(source.key);
    },
    again() {
      if (call.value.closed || isMute()) return;
      dispatch({ do: 'edit', edited: null });
      tell(v1('calls', id, 'drafts'), {});
    },
    startEditing() {
      const current = draft();
      if (current?.state === 'done' && !current.verdict && !call.value.closed) dispatch({ do: 'edit', edited: { draft: current.id, text: current.text } });
    },
    type: (text) => dispatch({ do: 'edit', edited: { ...panel.value.edited, text } }),
    stopEditing: () => dispatch({ do: 'edit', edited: null }),
    async use() {
      const edited = panel.value.edited;
      const current = edited ? call.value.drafts.find((other) => other.id === edited.draft) : draft();
      if (!current || current.state !== 'done' || current.verdict === 'rejected') return;
      const text = edited?.text ?? draftText(current);
      const isCopied = await copy(text);
      notice(isCopied ? 'Draft copied.' : 'Used. The browser did not allow copying.', isCopied ? 'good' : 'warn');
      dispatch({ do: 'edit', edited: null });
      onUse?.(text);
      if (current.verdict || call.value.closed) return; // A second press, or one after the call, only copies.
      const isEdited = text !== current.text;
      await tell(v1('calls', id, 'drafts', current.id, 'judgement'), { verdict: isEdited ? 'edited' : 'accepted', text });
    },
    reject() {
      const current = draft();
      if (current?.state !== 'done' || current.verdict || call.value.closed) return;
      tell(v1('calls', id, 'drafts', current.id, 'judgement'), { verdict: 'rejected' });
    },
    async rewrite() {
      const current = draft();
      if (current?.state !== 'done' || call.value.closed) return undefined;
      if (current.verdict === 'edited') return notice('You have edited and used this draft. Press R for another one.');
      const spans = selectedSpans(current);
      if (spans.length > 0 && isMute()) return undefined;
      if (spans.length === 0) {
        notice('Select some words of the draft first, then press E. Or edit the whole text by hand.');
        return hands.startEditing();
      }
      getSelection().removeAllRanges();
      dispatch({ do: 'rewrite', rewriting: { id: current.id, spans, text: current.text } });
      say('Rewriting the selected words');
      const body = { spans: spans.map(([start, end]) => ({ start, end })) };
      if (!await tell(v1('calls', id, 'drafts', current.id, 'edits'), body)) dispatch({ do: 'rewrite', rewriting: null });
      return undefined;
    },
    search: (isOpen) => dispatch({ do: 'search', isOpen }),
    help: (isOpen) => dispatch({ do: 'help', isOpen }),
    askForHelp: (isOpen) => dispatch({ do: 'flag', isOpen }),
    async flag(message) {
      dispatch({ do: 'flag', isOpen: false });
      if (await tell(v1('calls', id, 'flag'), { message })) notice('A supervisor sees your flag.', 'good');
    },
    async whisper(text) {
      return tell(v1('calls', id, 'notes'), { text });
    },
    readNotes: () => dispatch({ do: 'read_notes', count: call.value.notes.length }),
    unnotice: () => dispatch({ do: 'notice', text: null }),
  };
  return hands;
}

/**
 * Moves the hand that a key means.
 * @param {string} key @param {ReturnType<typeof makeHands>} hands
 * @param {import('../state/live.js').LiveCall} live @param {() => void} onNext
 */
export function pressed(key, hands, { panel, call }, onNext) {
  const { current, order, edited } = panel.value;
  const card = current === 'draft' ? null : current;
  switch (key) {
    case '1': case '2': case '3': return order[Number(key) - 1] && hands.copy(order[Number(key) - 1]);
    case 'j': return hands.move(1);
    case 'k': return hands.move(-1);
    case 'p': return (card ?? order[0]) && hands.pin(card ?? order[0]);
    case 'x': return card ? hands.wrong(card) : hands.reject();
    case 'o': return (card ?? order[0]) && hands.open(card ?? order[0]);
    case 'ctrl+enter': return hands.use();
    case 'r': return hands.again();
    case 'e': return hands.rewrite();
    case '/': return hands.search(true);
    case 'f': return call.value.closed ? undefined : hands.askForHelp(true);
    case 'n': return onNext();
    case '?': return hands.help(true);
    case 'escape': return edited ? hands.stopEditing() : hands.readNotes();
    default: return undefined;
  }
}
