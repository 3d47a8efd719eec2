// Starts the pages: who is signed in, which page, and the bar on top of all of them.

import { render } from 'preact';
import { useEffect } from 'preact/hooks';

import { html } from './html.js';
import { get, remove } from './api.js';
import { applyTheme, nextTheme, theme } from './theme.js';
import { go, path, startRouter } from './router.js';
import { PAGES, homeOf, pagesOf, session } from './session.js';
import { Board } from './pages/board.js';
import { Call } from './pages/call.js';
import { Failure } from './parts/failure.js';
import { Mark } from './parts/mark.js';
import { Home } from './pages/home.js';
import { Knowledge } from './pages/knowledge.js';
import { SignIn } from './pages/sign_in.js';
import { Terms } from './pages/terms.js';
import { Try } from './pages/try.js';
import { UsedLink, readLink } from './parts/used_link.js';
import { Users } from './pages/users.js';

const ROUTES = [
  [/^\/$/, Home],
  [/^\/calls\/([^/]+)$/, Call],
  [/^\/board$/, Board],
  [/^\/knowledge$/, Knowledge],
  [/^\/terms$/, Terms],
  [/^\/users$/, Users],
  [/^\/try$/, Try],
];

function App() {
  if (session.value === undefined) return html`<p class="wait" role="status">One moment …</p>`;
  if (session.value === null) return html`<${SignIn} />`;
  for (const [pattern, Page] of ROUTES) {
    const found = path.value.match(pattern);
    if (found) return html`<${Bar} /><${UsedLink} onLeave=${leave} /><${Guarded} key=${path.value} page=${Page} argument=${found[1] && decodeURIComponent(found[1])} />`;
  }
  return html`<${Bar} /><main id="main" tabindex="-1" class="page"><${Failure} title="There is no such page"
    message=${`Nothing is served at ${path.value}.`}><a class="button" href=${homeOf(session.value)}>Go to your start page</a><//></main>`;
}

/** Shows a page to those who may see it. The server decides anew at every request. */
function Guarded({ page: Page, argument }) {
  const who = session.value;
  const known = pagesOf(who).some((entry) => entry.path === path.value);
  const isCall = Page === Call;
  const isHome = Page === Home;
  useEffect(() => {
    const entry = PAGES.find((other) => other.path === path.value);
    document.title = `${isCall ? 'Call' : entry?.title ?? 'Page'} · ChatDLM`;
  }, []);
  useEffect(() => {
    if (isHome && who.role !== 'agent') go(homeOf(who), { replace: true });
  }, [isHome, who.role]);
  if (isHome && who.role !== 'agent') return null;
  if (!known && !isCall) {
    return html`<main id="main" tabindex="-1" class="page"><${Failure} title="This page is not for your role"
      message=${`You are signed in as ${who.name} (${who.role}).`}>
      <a class="button" href=${homeOf(who)}>Go to your start page</a><//></main>`;
  }
  return html`<${Page} argument=${argument} />`;
}

async function leave() {
  await remove('/v1/session').catch(() => {}); // Signed out already is signed out.
  session.value = null;
  go('/', { replace: true });
}

function Bar() {
  const who = session.value;
  return html`<header class="bar">
    <a class="skip" href="#main">Skip to the content</a>
    <a class="brand" href=${homeOf(who)}><${Mark} />ChatDLM</a>
    <nav aria-label="Pages">
      ${pagesOf(who).map((page) => html`<a href=${page.path} key=${page.path}
        aria-current=${path.value === page.path ? 'page' : undefined}>${page.title}</a>`)}
    </nav>
    <div class="bar-end">
      <button class="quiet small" onClick=${nextTheme} title="Light, dark, or as the system says">
        <span class="visually-hidden">Colours: </span>${theme.value}</button>
      <span class="who" title=${`tenant ${who.tenant}`}>${who.name}<span class="faint"> ${who.role}</span></span>
      <button class="quiet small" onClick=${leave}>Sign out</button>
    </div>
  </header>`;
}

applyTheme();
readLink();
startRouter();
render(html`<${App} />`, document.getElementById('app'));
try {
  session.value = await get('/v1/session');
} catch {
  // Not signed in is a usual state; anything else shows when the sign-in is tried.
  session.value = null;
}
