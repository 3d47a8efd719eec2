// What the agent did on the panel and nobody else needs to know: which item is current, what is
// pinned, wrong, copied, open. The order of the cards is decided here. Pure.

/**
 * @typedef {object} PanelState
 * @property {string} current `draft` or the key of a card
 * @property {string[]} order the keys of the cards as shown
 * @property {number} sight how many of them are shown; the rest are folded away as earlier ones
 * @property {boolean} isHeld the pointer or the focus is on the cards: nothing may move
 * @property {string[]} pinned in the order of pinning
 * @property {Record<string, boolean>} wrong by card
 * @property {Record<string, boolean>} copied by card
 * @property {Record<string, boolean>} opened by card
 * @property {{draft: string, text: string}|null} edited a draft in the agent's hands
 * @property {{id: string, spans: [number, number][], text: string}|null} rewriting stretches that wait for the model
 * @property {number} notesRead how many whispers were put away
 * @property {boolean} isSearching
 * @property {boolean} isHelping
 * @property {boolean} isFlagging
 * @property {{text: string, tone: string}|null} notice what just happened, or went wrong
 */

/** How many cards are in sight before "earlier cards". */
export const CARDS_IN_SIGHT = 3;

/** @returns {PanelState} */
export function emptyPanel() {
  return {
    current: 'draft', order: [], sight: CARDS_IN_SIGHT, isHeld: false, pinned: [], wrong: {}, copied: {}, opened: {},
    edited: null, rewriting: null, notesRead: 0, isSearching: false, isHelping: false, isFlagging: false, notice: null,
  };
}

/** @param {PanelState} state @param {{do: string, [field: string]: any}} action @returns {PanelState} */
export function act(state, action) {
  switch (action.do) {
    case 'arrange':
      return { ...state, ...arrange(state, action.cards) };
    case 'hold':
      return state.isHeld === action.isHeld ? state : { ...state, isHeld: action.isHeld };
    case 'choose':
      return { ...state, current: action.item };
    case 'move': {
      const items = ['draft', ...state.order];
      const at = Math.max(0, items.indexOf(state.current)) + action.by;
      return { ...state, current: items[Math.min(items.length - 1, Math.max(0, at))] };
    }
    case 'pin': {
      const isPinned = state.pinned.includes(action.card);
      return { ...state, pinned: isPinned ? state.pinned.filter((key) => key !== action.card) : [...state.pinned, action.card] };
    }
    case 'wrong':
      return { ...state, wrong: { ...state.wrong, [action.card]: action.isWrong } };
    case 'copied':
      return { ...state, copied: { ...state.copied, [action.card]: true } };
    case 'open':
      return { ...state, opened: { ...state.opened, [action.card]: !state.opened[action.card] } };
    case 'edit':
      return { ...state, edited: action.edited };
    case 'rewrite':
      return { ...state, rewriting: action.rewriting };
    case 'read_notes':
      return { ...state, notesRead: action.count };
    case 'search':
      return { ...state, isSearching: action.isOpen };
    case 'help':
      return { ...state, isHelping: action.isOpen };
    case 'flag':
      return { ...state, isFlagging: action.isOpen };
    case 'notice':
      return { ...state, notice: action.text ? { text: action.text, tone: action.tone ?? 'plain' } : null };
    default:
      return state;
  }
}

/**
 * Orders the cards: pinned ones first, then the newest push, best first; wrong ones last. While
 * held, nothing moves and what is new comes in below those in sight.
 * @param {PanelState} state @param {import('./call.js').Card[]} cards @returns {{order: string[], sight: number}}
 */
export function arrange(state, cards) {
  if (state.isHeld) {
    const fresh = cards.map((card) => card.key).filter((key) => !state.order.includes(key));
    const order = state.order.toSpliced(state.sight, 0, ...fresh);
    return { order, sight: Math.min(order.length, Math.max(CARDS_IN_SIGHT, state.sight + fresh.length)) };
  }
  const place = (card) => {
    const pin = state.pinned.indexOf(card.key);
    if (pin >= 0) return [0, pin, 0];
    return [state.wrong[card.key] ? 2 : 1, -card.round, card.rank];
  };
  const order = [...cards]
    .map((card) => ({ key: card.key, place: place(card) }))
    .sort((a, b) => a.place[0] - b.place[0] || a.place[1] - b.place[1] || a.place[2] - b.place[2])
    .map((card) => card.key);
  return { order, sight: Math.max(CARDS_IN_SIGHT, state.pinned.length) };
}
