// Where we are: the path as a signal, links without a reload.

import { signal } from '@preact/signals';

/** The current path. */
export const path = signal(location.pathname);

/** Goes to another page. @param {string} to @param {{replace?: boolean}} [how] */
export function go(to, { replace = false } = {}) {
  if (to === location.pathname) return;
  history[replace ? 'replaceState' : 'pushState'](null, '', to);
  path.value = to;
  scrollTo(0, 0);
}

/** Starts following links and the back button. */
export function startRouter() {
  addEventListener('popstate', () => { path.value = location.pathname; });
  document.addEventListener('click', (event) => {
    const link = event.target.closest?.('a[href]');
    const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
    if (!link || !plain || event.defaultPrevented || link.target || link.origin !== location.origin) return;
    if (link.hash && link.pathname === location.pathname) return;
    if (/^\/(v1|assets)\//.test(link.pathname) || link.hasAttribute('download')) return;
    event.preventDefault();
    go(link.pathname);
  });
}
