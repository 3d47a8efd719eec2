// `/terms`: the lists of sensitive terms. All lists are saved together, and count at once.

import { useEffect, useState } from 'preact/hooks';

import { html } from '../html.js';
import { Empty, Problem } from '../parts/failure.js';
import { exchange, listOf } from '../api.js';
import { plural } from '../text.js';

const MATCHES = { word: 'whole words', prefix: 'word beginnings', regex: 'patterns (regex)' };
const SEVERITIES = ['info', 'warning', 'critical'];
const ACTIONS = { alert: 'alert', redact: 'remove it', both: 'remove it and alert' };
const BLANK = { category: '', terms: [], match: 'word', severity: 'warning', action: 'alert' };

let lastKey = 0;
const keyed = (list) => {
  lastKey += 1;
  return { ...list, key: lastKey };
};

export function Terms() {
  const [lists, setLists] = useState(null);
  // What the server has, as far as this page knows: the lists as text, and the tag of their version.
  const [saved, setSaved] = useState({ text: '', etag: null });
  const [error, setError] = useState(null);
  const [state, setState] = useState('');
  const [isBusy, setBusy] = useState(false);
  // Somebody else saved meanwhile: what they have, and what they changed.
  const [theirs, setTheirs] = useState(null);
  // What was typed here before theirs were loaded: nothing typed is lost.
  const [mine, setMine] = useState(null);
  const load = async () => {
    const { value, etag } = await exchange('GET', '/v1/terms');
    const loaded = listOf(value, 'terms').map(keyed);
    return { lists: loaded, text: text(loaded), etag };
  };
  useEffect(() => {
    load().then((loaded) => {
      setLists(loaded.lists);
      setSaved(loaded);
    }, setError);
  }, []);
  const show = (next) => {
    setState('');
    setLists(next);
  };
  const change = (key, fields) => show(lists.map((list) => (list.key === key ? { ...list, ...fields } : list)));
  const isChanged = lists !== null && text(lists) !== saved.text;

  /** Saves what is shown; without a tag whatever the server has by now. */
  const save = async (etag) => {
    setBusy(true);
    setState('');
    const sent = text(lists);
    try {
      const answer = await exchange('PUT', '/v1/terms', { body: plain(lists), ifMatch: etag });
      setSaved({ text: sent, etag: answer.etag });
      setError(null);
      setTheirs(null);
      setMine(null);
      setState('Saved. Running calls watch for these terms from now on.');
    } catch (failure) {
      setError(failure.status === 412 ? null : failure);
      if (failure.status === 412) await load().then((loaded) => setTheirs({ ...loaded, changes: changes(saved.text, loaded.text) }), setError);
    }
    setBusy(false);
  };
  const takeTheirs = () => {
    setMine(lists);
    show(theirs.lists);
    setSaved(theirs);
    setTheirs(null);
  };
  const takeMine = () => {
    show(mine);
    setMine(null);
  };
  return html`<main id="main" tabindex="-1" class="page">
    <header class="page-head"><div><h1>Sensitive terms</h1>
      <p class="faint">What every call is watched for. Card numbers, e-mail addresses and the like are always removed; these lists are yours.</p></div>
      ${lists && html`<button onClick=${() => show([keyed(BLANK), ...lists])}>+ new list</button>`}</header>
    ${lists === null && !error && html`<p class="faint" role="status">Loading …</p>`}
    <form onSubmit=${(event) => { event.preventDefault(); save(saved.etag); }}>
      ${lists?.length === 0 && html`<${Empty} title="No lists yet"><p>A list is a category, its terms, and what happens when one is said.</p><//>`}
      <div class="term-lists">${lists?.map((list) => html`<${TermList} key=${list.key} list=${list} onChange=${(fields) => change(list.key, fields)}
        onRemove=${() => show(lists.filter((other) => other.key !== list.key))} />`)}</div>
      <footer class="save-bar">
        <${Problem} error=${error} />
        ${theirs && html`<${Conflict} changes=${theirs.changes} isBusy=${isBusy} onTheirs=${takeTheirs} onMine=${() => save(null)} />`}
        ${mine && html`<p class="notice" role="status"><span>These are their lists. What you typed is kept.</span> <button type="button" class="small" onClick=${takeMine}>Back to mine</button></p>`}
        ${state && html`<p class="tone-good" role="status">✓ ${state}</p>`}
        ${!theirs && html`<button class="primary" disabled=${!isChanged || isBusy}>${isBusy ? 'Saving …' : 'Save all lists'}</button>`}
        ${isChanged && !theirs && html`<span class="faint">not saved yet</span>`}
      </footer>
    </form>
  </main>`;
}

/** Somebody else was faster: what they changed, and the two ways on. */
function Conflict({ changes: changed, isBusy, onTheirs, onMine }) {
  return html`<section class="conflict" role="alert" aria-label="Somebody else changed the lists">
    <p><strong>Somebody else changed the lists meanwhile.</strong> Nothing of yours was saved, and nothing is lost.
      ${changed.length > 0 && html` <span class="faint">They ${changed.join('; ')}.</span>`}</p>
    <div class="row"><button type="button" disabled=${isBusy} onClick=${onTheirs}>Load theirs</button>
      <button type="button" class="danger" disabled=${isBusy} onClick=${onMine}>${isBusy ? 'Saving …' : 'Save mine anyway'}</button></div>
  </section>`;
}

/** Returns what turned one saved text into the other, by category. @param {string} before @param {string} after @returns {string[]} */
function changes(before, after) {
  const byCategory = (saved) => new Map(JSON.parse(saved || '[]').map((list) => [list.category, JSON.stringify(list)]));
  const [old, now] = [byCategory(before), byCategory(after)];
  const found = {
    added: [...now.keys()].filter((category) => !old.has(category)),
    changed: [...now.keys()].filter((category) => old.has(category) && old.get(category) !== now.get(category)),
    removed: [...old.keys()].filter((category) => !now.has(category)),
  };
  return Object.entries(found).filter(([, names]) => names.length > 0).map(([what, names]) => `${what} ${names.map((name) => `“${name}”`).join(', ')}`);
}

/** What the server is sent. @param {any[]} lists */
const plain = (lists) => lists.map(({ category, terms, match, severity, action }) => ({
  category: category.trim(), terms: terms.map((term) => term.trim()).filter(Boolean), match, severity, action,
}));
const text = (lists) => JSON.stringify(plain(lists));

function TermList({ list, onChange, onRemove }) {
  const select = (field, options) => html`<select value=${list[field]} onChange=${(event) => onChange({ [field]: event.target.value })}>
    ${options.map(([value, shown]) => html`<option key=${value} value=${value}>${shown}</option>`)}</select>`;
  return html`<fieldset class="panel-box term-list">
    <legend class="visually-hidden">${list.category || 'New list'}</legend>
    <div class="term-head">
      <label>Category<input value=${list.category} onInput=${(event) => onChange({ category: event.target.value })} required placeholder="legal_threat" spellcheck="false" /></label>
      <button type="button" class="quiet small" onClick=${onRemove} aria-label=${`Remove the list ${list.category}`}>remove</button>
    </div>
    <label><span>Terms, one a line <span class="faint">(${plural(list.terms.filter((term) => term.trim()).length, 'term')})</span></span>
      <textarea rows="5" value=${list.terms.join('\n')} onInput=${(event) => onChange({ terms: event.target.value.split('\n') })} required spellcheck="false"></textarea></label>
    <div class="trio">
      <label>They are${select('match', Object.entries(MATCHES))}</label>
      <label>Severity${select('severity', SEVERITIES.map((name) => [name, name]))}</label>
      <label>When said${select('action', Object.entries(ACTIONS))}</label>
    </div>
  </fieldset>`;
}
