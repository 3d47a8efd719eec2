// What the agent pinned, copied and marked in a call, kept in this tab: a reload forgets nothing,
// and a card that was marked wrong is not called useful because it is copied after a reload.

import { session } from '../session.js';

const KEPT = ['pinned', 'wrong', 'copied'];
// By person too: whoever signs in next in this tab marked nothing.
const keyOf = (call) => `chatdlm-${session.value?.name ?? ''}-${call}`;

/** Returns what was kept of a call. @param {string} call @returns {Partial<import('./panel.js').PanelState>} */
export function kept(call) {
  try {
    const found = JSON.parse(sessionStorage.getItem(keyOf(call)) ?? '{}');
    return Object.fromEntries(KEPT.filter((name) => found[name]).map((name) => [name, found[name]]));
  } catch {
    return {}; // Storage may be forbidden: nothing was kept.
  }
}

/** Keeps it. @param {string} call @param {import('./panel.js').PanelState} panel */
export function keep(call, panel) {
  try {
    sessionStorage.setItem(keyOf(call), JSON.stringify(Object.fromEntries(KEPT.map((name) => [name, panel[name]]))));
  } catch {
    // It holds until the page is left.
  }
}

/** The panel's actions that change what is kept. */
export const KEEPING = ['pin', 'wrong', 'copied'];
