// `/terms`: the lists of sensitive terms. All lists are saved together, and count at once.

import { useEffect, useState } from 'preact/hooks';

import { html } from '../html.js';
import { Empty, Problem } from '../parts/failure.js';
import { get, listOf, put } from '../api.js';
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
  const [saved, setSaved] = useState('');
  const [error, setError] = useState(null);
  const [state, setState] = useState('');
  useEffect(() => {
    get('/v1/terms').then((answer) => {
      const loaded = listOf(answer, 'terms').map(keyed);
      setLists(loaded);
      setSaved(text(loaded));
    }, setError);
  }, []);
  const change = (key, fields) => {
    setState('');
    setLists(lists.map((list) => (list.key === key ? { ...list, ...fields } : list)));
  };
  const isChanged = lists !== null && text(lists) !== saved;
  const save = async (event) => {
    event.preventDefault();
    try {
      await put('/v1/terms', plain(lists));
      setSaved(text(lists));
      setError(null);
      setState('Saved. Running calls watch for these terms from now on.');
    } catch (failure) {
      setError(failure);
      setState('');
    }
  };
  return html`<main id="main" tabindex="-1" class="page">
    <header class="page-head"><div><h1>Sensitive terms</h1>
      <p class="faint">What every call is watched for. Card numbers, e-mail addresses and the like are always removed; these lists are yours.</p></div>
      ${lists && html`<button onClick=${() => setLists([keyed(BLANK), ...lists])}>+ new list</button>`}</header>
    ${lists === null && !error && html`<p class="faint" role="status">Loading …</p>`}
    <form onSubmit=${save}>
      ${lists?.length === 0 && html`<${Empty} title="No lists yet"><p>A list is a category, its terms, and what happens when one is said.</p><//>`}
      <div class="term-lists">${lists?.map((list) => html`<${TermList} key=${list.key} list=${list} onChange=${(fields) => change(list.key, fields)}
        onRemove=${() => setLists(lists.filter((other) => other.key !== list.key))} />`)}</div>
      <footer class="save-bar">
        <${Problem} error=${error} />
        ${state && html`<p class="tone-good" role="status">✓ ${state}</p>`}
        <button class="primary" disabled=${!isChanged}>Save all lists</button>
        ${isChanged && html`<span class="faint">not saved yet</span>`}
      </footer>
    </form>
  </main>`;
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
