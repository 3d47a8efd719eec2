// `/knowledge`: the admin's bases, their articles and versions, imports as they happen, and a
// box that shows what an agent would get.

import { useCallback, useEffect, useRef, useState } from 'preact/hooks';

import { html } from '../html.js';
import { ArticleDialog } from '../parts/article.js';
import { Dialog } from '../parts/dialog.js';
import { Empty, Problem } from '../parts/failure.js';
import { Imports } from '../parts/imports.js';
import { PassageList, usePassages } from '../parts/search.js';
import { get, listOf, post, put, v1 } from '../api.js';
import { moment, plural } from '../text.js';
import { useImports } from '../parts/use_imports.js';

/** Loads something, and again on demand. @param {() => Promise<any>} load @param {any[]} on */
function useLoaded(load, on) {
  const [state, setState] = useState({ value: null, error: null });
  const latest = useRef(0);
  const again = useCallback(async () => {
    latest.current += 1;
    const mine = latest.current;
    try {
      const value = await load();
      if (mine === latest.current) setState({ value, error: null });
    } catch (error) {
      if (mine === latest.current) setState((before) => ({ ...before, error }));
    }
  }, on);
  useEffect(() => { again(); }, [again]);
  return { ...state, again };
}

export function Knowledge() {
  const [chosen, setChosen] = useState(() => sessionStorage.getItem('base') ?? '');
  const [isAdding, setAdding] = useState(false);
  const bases = useLoaded(async () => listOf(await get('/v1/knowledge'), 'bases'), []);
  const list = bases.value ?? [];
  const base = list.find((other) => other.id === chosen) ?? list[0] ?? null;
  const [round, setRound] = useState(0);
  const onChanged = useCallback(() => {
    bases.again();
    setRound((before) => before + 1);
  }, [bases.again]);
  const imports = useImports(onChanged);
  const isDragging = useDrop((files) => base && imports.start(base.id, files));
  const choose = (id) => {
    sessionStorage.setItem('base', id);
    setChosen(id);
  };
  return html`<main id="main" tabindex="-1" class="knowledge">
    <nav class="bases" aria-label="Knowledge bases">
      <header class="caption-row"><h2 class="caption">Bases</h2><button class="quiet small" onClick=${() => setAdding(true)}>+ new base</button></header>
      <${Problem} error=${bases.error} />
      <ul>${list.map((other) => html`<li key=${other.id}><button class="base" aria-current=${other.id === base?.id} onClick=${() => choose(other.id)}>
        <strong>${other.title}</strong><span class="faint">${other.id}${other.version ? ` · v${other.version}` : ''} · ${plural(other.articles ?? 0, 'article')}</span></button></li>`)}</ul>
    </nav>
    ${base ? html`<${Base} key=${base.id} base=${base} round=${round} imports=${imports} onChanged=${onChanged} />`
      : bases.value && html`<${Empty} title="No knowledge yet"><p>A base holds the articles of one company or one product. Agents get cards from it.</p>
        <div class="row"><button class="primary" onClick=${() => setAdding(true)}>Create the first base</button></div><//>`}
    ${isAdding && html`<${NewBase} onClose=${() => setAdding(false)} onMade=${(id) => { setAdding(false); choose(id); onChanged(); }} />`}
    ${isDragging && html`<div class="drop" aria-hidden="true"><p>Drop the files to import them into <strong>${base?.title ?? 'a base: create one first'}</strong></p></div>`}
  </main>`;
}

/** Takes files dropped anywhere on the page. @param {(files: File[]) => void} onFiles @returns {boolean} whether files hover */
function useDrop(onFiles) {
  const [isDragging, setDragging] = useState(false);
  const take = useRef(onFiles);
  take.current = onFiles;
  useEffect(() => {
    let depth = 0;
    const hasFiles = (event) => event.dataTransfer?.types.includes('Files');
    const listeners = {
      dragenter(event) { if (hasFiles(event)) { depth += 1; setDragging(true); } },
      dragleave(event) { if (hasFiles(event)) { depth -= 1; if (depth <= 0) setDragging(false); } },
      dragover(event) { if (hasFiles(event)) event.preventDefault(); },
      drop(event) {
        if (!hasFiles(event)) return;
        event.preventDefault();
        depth = 0;
        setDragging(false);
        take.current([...event.dataTransfer.files]);
      },
    };
    for (const [name, listener] of Object.entries(listeners)) addEventListener(name, listener);
    return () => { for (const [name, listener] of Object.entries(listeners)) removeEventListener(name, listener); };
  }, []);
  return isDragging;
}

function NewBase({ onClose, onMade }) {
  const [title, setTitle] = useState('');
  const [id, setId] = useState('');
  const [language, setLanguage] = useState('en');
  const [error, setError] = useState(null);
  const proposed = title.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-').replaceAll(/^-+|-+$/g, '').slice(0, 40);
  const make = async (event) => {
    event.preventDefault();
    const name = id.trim() || proposed;
    try {
      await put(v1('knowledge', name), { title: title.trim(), language });
      onMade(name);
    } catch (failure) {
      setError(failure);
    }
  };
  return html`<${Dialog} title="New base" onClose=${onClose}><form class="stack" onSubmit=${make}>
    <label>Title<input value=${title} onInput=${(event) => setTitle(event.target.value)} required placeholder="Northline Mobile" autofocus /></label>
    <label><span>Id <span class="faint">(calls name it; it cannot be changed)</span></span><input value=${id} onInput=${(event) => setId(event.target.value)} pattern="[A-Za-z0-9._\\-]+" placeholder=${proposed || 'northline'} spellcheck="false" /></label>
    <label>Language<input value=${language} onInput=${(event) => setLanguage(event.target.value)} required pattern="[A-Za-z\\-]{2,}" /></label>
    <${Problem} error=${error} />
    <div class="row"><button class="primary">Create</button></div></form><//>`;
}

function Base({ base, round, imports, onChanged }) {
  const picker = useRef(null);
  const mine = imports.list.filter((item) => item.base === base.id);
  const onPick = (event) => {
    imports.start(base.id, [...event.target.files]);
    event.target.value = '';
  };
  return html`<section class="base-page">
    <header class="base-head">
      <div><h1>${base.title}</h1>
        <p class="faint">${plural(base.articles ?? 0, 'article')} · ${plural(base.passages ?? 0, 'passage')} · ${base.language ?? 'en'}${base.version ? ` · version ${base.version} is what agents get` : ' · nothing published yet'}</p></div>
      <div class="row">
        <input ref=${picker} id="files" type="file" multiple class="visually-hidden" onChange=${onPick} accept=".md,.txt,.html,.htm,.csv,.json,.zip" aria-label="Files to import" />
        <button class="primary" onClick=${() => picker.current.click()}>Import files</button>
        <span class="faint">or drop them anywhere: Markdown, text, HTML, CSV, JSON, or a ZIP of these</span>
      </div>
    </header>
    <${Imports} items=${mine} onForget=${imports.forget} />
    <${TryBox} base=${base} round=${round} />
    <div class="base-columns">
      <${Articles} base=${base} round=${round} onChanged=${onChanged} />
      <${Versions} base=${base} round=${round} onChanged=${onChanged} />
    </div>
  </section>`;
}

/** What an agent would get for a question. */
function TryBox({ base, round }) {
  const [query, setQuery] = useState('');
  const { cards, error, query: asked } = usePassages(query, [base.id], 5, round);
  return html`<section class="panel-box try-box"><h2 class="caption">What an agent would get</h2>
    <input type="search" id="try-query" value=${query} onInput=${(event) => setQuery(event.target.value)} aria-label="Ask as a customer would"
      placeholder="Ask as a customer would: my engineer did not come, do I get money back" spellcheck="false" autocomplete="off" />
    <${Problem} error=${error} />
    ${asked && html`<${PassageList} cards=${cards} asked=${asked} isExact />`}
    ${asked && cards.length > 0 && html`<p class="faint small">Marked words matched. Strong, fair and weak compare with the best match here; the numbers compare within this version. Agents in a call get only the best.</p>`}
  </section>`;
}

function Articles({ base, round, onChanged }) {
  const [query, setQuery] = useState('');
  const [pages, setPages] = useState({ rows: [], cursor: null });
  const [error, setError] = useState(null);
  const [open, setOpen] = useState(null);
  const load = async (cursor, before) => {
    const asked = new URLSearchParams();
    if (query.trim()) asked.set('q', query.trim());
    if (cursor) asked.set('cursor', cursor);
    try {
      const answer = await get(`${v1('knowledge', base.id, 'articles')}?${asked}`);
      setPages({ rows: [...before, ...listOf(answer, 'articles')], cursor: answer.next_cursor });
      setError(null);
    } catch (failure) {
      setError(failure);
    }
  };
  useEffect(() => {
    const timer = setTimeout(() => load(null, []), query ? 150 : 0);
    return () => clearTimeout(timer);
  }, [base.id, query, round]);
  return html`<section class="panel-box"><header class="caption-row"><h2 class="caption">Articles</h2>
      <button class="quiet small" onClick=${() => setOpen('')}>+ write one</button></header>
    <input type="search" value=${query} onInput=${(event) => setQuery(event.target.value)} placeholder="Search titles and texts" aria-label="Search the articles" />
    <${Problem} error=${error} />
    ${!error && pages.rows.length === 0 && html`<p class="faint pad">${query ? `No article matches “${query}”.` : 'This base is empty. Import files, or write the first article.'}</p>`}
    <ul class="article-list">${pages.rows.map((article) => html`<li key=${article.id}><button class="article-row" onClick=${() => setOpen(article.id)}>
      <span>${article.title}<span class="faint article-facts">${[article.category, article.updated].filter(Boolean).join(' · ')}</span></span>
      <span class="faint">${usage(article)}</span></button></li>`)}</ul>
    ${pages.cursor && html`<div class="row"><button onClick=${() => load(pages.cursor, pages.rows)}>More</button></div>`}
    ${open !== null && html`<${ArticleDialog} base=${base.id} id=${open} onClose=${() => setOpen(null)} onChanged=${() => { setOpen(null); onChanged(); }} />`}
  </section>`;
}

function Versions({ base, round, onChanged }) {
  const { value, error, again } = useLoaded(async () => listOf(await get(v1('knowledge', base.id, 'versions')), 'versions'), [base.id, round]);
  const [failure, setFailure] = useState(null);
  const [busy, setBusy] = useState(null);
  const activate = async (version) => {
    setBusy(version);
    try {
      await post(v1('knowledge', base.id, 'versions', version, 'activate'));
      setFailure(null);
      onChanged();
      again();
    } catch (refused) {
      setFailure(refused);
    }
    setBusy(null);
  };
  const rows = [...(value ?? [])].sort((a, b) => b.version - a.version);
  return html`<section class="panel-box"><h2 class="caption">Versions</h2>
    <${Problem} error=${error ?? failure} />
    <ol class="version-list">${rows.map((row) => html`<li key=${row.version} class=${row.state === 'active' ? 'active' : ''}>
      <div><strong class="number">v${row.version}</strong><${Changes} changes=${row.changes} />${row.state === 'active' && html` <span class="badge tone-good">✓ agents get this</span>`}
        <p class="faint">${[moment(row.created_at), plural(row.articles, 'article'), row.reason].filter(Boolean).join(' · ')}</p></div>
      ${row.state === 'retired' && html`<button class="small" disabled=${busy !== null} onClick=${() => activate(row.version)}>${row.version < base.version ? 'Roll back to it' : 'Publish'}</button>`}
    </li>`)}</ol>
    ${value?.length === 0 && html`<p class="faint pad">The first import becomes version 1.</p>`}
  </section>`;
}

/** What changed against the version before: `+3 ~1 −0`, in words for who listens. */
function Changes({ changes }) {
  if (!changes) return null;
  const { added = 0, changed = 0, removed = 0 } = changes;
  const spoken = `${plural(added, 'article')} added, ${changed} changed, ${removed} removed since the version before`;
  return html` <span class="changes number" title=${spoken}><span aria-hidden="true">+${added} ~${changed} −${removed}</span><span class="visually-hidden">${spoken}</span></span>`;
}

/** Returns what agents made of an article's cards, in words. @param {any} article */
function usage({ pushed, useful, wrong }) {
  if (!pushed) return 'never shown';
  return [`shown ${pushed}×`, useful > 0 && `useful ${useful}`, wrong > 0 && `wrong ${wrong}`].filter(Boolean).join(' · ');
}
