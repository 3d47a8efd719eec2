// Who is signed in. `undefined` while unknown, null when nobody is.

import { signal } from '@preact/signals';

/** @typedef {{name: string, role: 'agent'|'supervisor'|'admin', tenant: string, demo: boolean}} Session */

/** @type {import('@preact/signals').Signal<Session|null|undefined>} */
export const session = signal(undefined);

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
