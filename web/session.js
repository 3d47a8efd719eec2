// Who is signed in. `undefined` while unknown, null when nobody is.

import { computed, signal } from '@preact/signals';

/** @typedef {{model: boolean, emotions: boolean, drafts: boolean}} Assistant what of the assistant works now */
/** @typedef {{name: string, role: 'agent'|'supervisor'|'admin', tenant: string, demo: boolean, assistant?: Assistant}} Session */

/** @type {import('@preact/signals').Signal<Session|null|undefined>} */
export const session = signal(undefined);

/** What of the assistant works now; a server that does not say has all of it. */
export const assistant = computed(() => ({ model: true, emotions: true, drafts: true, ...session.value?.assistant }));

/** Returns why nothing is drafted, or null. @param {Assistant} state */
export function whyNoDrafts({ model, drafts }) {
  if (!model) return 'No model is loaded: cards and monitoring go on, emotion and drafts do not.';
  return drafts ? null : 'Drafts are switched off; cards still come.';
}

/** Returns why no emotion is read, or null. @param {Assistant} state */
export function whyNoEmotion({ model, emotions }) {
  if (!model) return 'No model is loaded: emotion is not read.';
  return emotions ? null : 'Reading emotion is switched off.';
}

/** Returns the page a person starts on. @param {Session} who */
export function homeOf(who) {
  if (who.role === 'supervisor') return '/board';
  if (who.role === 'admin') return '/knowledge';
  return '/';
}

/** The pages in the navigation, with who may open them. */
export const PAGES = [
  { path: '/', title: 'My calls', roles: ['agent'] },
  { path: '/board', title: 'Board', roles: ['supervisor'] },
  { path: '/knowledge', title: 'Knowledge', roles: ['admin'] },
  { path: '/terms', title: 'Terms', roles: ['admin'] },
  { path: '/users', title: 'Users', roles: ['admin'] },
  { path: '/try', title: 'Try it', roles: ['agent', 'supervisor'], demo: true },
];

/** Returns the pages that a person may open. @param {Session} who */
export function pagesOf(who) {
  return PAGES.filter((page) => page.roles.includes(who.role) && (!page.demo || who.demo));
}
