// Imports as they happen: bytes leaving, then each file from reading to indexed, or its error.

import { html } from '../html.js';
import { plural, size, words } from '../text.js';

const STEPS = ['reading', 'passages', 'indexed'];

/** @param {{items: import('./use_imports.js').Import[], onForget: (key: number) => void}} props */
export function Imports({ items, onForget }) {
  if (items.length === 0) return null;
  return html`<section class="imports" aria-label="Imports" aria-live="polite">
    ${items.map((item) => html`<div key=${item.key} class=${`import panel-box ${item.phase}`}>
      <header class="caption-row"><h2 class="caption">Import of ${plural(item.files.length, 'file')} <span class=${`badge ${BADGES[item.phase]}`}>${title(item)}</span></h2>
        ${(item.phase === 'done' || item.phase === 'failed') && html`<button class="quiet small" onClick=${() => onForget(item.key)}>put away</button>`}</header>
      ${item.phase === 'sending' && html`<progress max="1" value=${item.sent} aria-label="Sent">${Math.round(100 * item.sent)} %</progress>`}
      ${item.error && html`<p class="problem">${item.error}</p>`}
      <ul class="file-list">${rows(item).map((file) => html`<${FileRow} key=${file.name} file=${file} />`)}</ul>
    </div>`)}
  </section>`;
}

const BADGES = { sending: '', reading: 'tone-accent', done: 'tone-good', failed: 'tone-bad' };

function title(item) {
  if (item.phase === 'sending') return `sending ${Math.round(100 * item.sent)} %`;
  if (item.phase === 'reading') return 'reading';
  if (item.phase === 'failed') return 'failed';
  const version = item.state?.version;
  return version ? `✓ published as version ${version}` : '✓ done';
}

/** What the server has read of the files, then those that it has yet to read. */
function rows(item) {
  const told = item.state?.files ?? [];
  const read = told.map(({ file, articles, passages, error }) => ({
    name: file,
    size: item.files.find((sent) => sent.name === file)?.size,
    step: item.phase === 'done' ? 'indexed' : 'passages',
    articles,
    passages,
    error,
  }));
  const isTold = (name) => told.some(({ file }) => file === name || file.startsWith(`${name}/`));
  const step = item.phase === 'reading' ? 'reading' : '';
  return [...read, ...item.files.filter(({ name }) => !isTold(name)).map(({ name, size: bytes }) => ({ name, size: bytes, step }))];
}

function FileRow({ file }) {
  const at = STEPS.indexOf(file.step);
  const found = [file.articles > 0 && plural(file.articles, 'article'), file.passages > 0 && plural(file.passages, 'passage')].filter(Boolean).join(', ');
  return html`<li class=${file.error ? 'bad' : ''}>
    <span class="file-name">${file.name}</span>
    <span class="faint number">${file.size !== undefined ? size(file.size) : ''}</span>
    ${file.error ? html`<span class="tone-bad">✕ ${file.error}</span>`
      : html`<span class="steps" aria-label=${words(file.step)}>${STEPS.map((step, index) => html`<span key=${step}
          class=${index < at || file.step === 'indexed' ? 'past' : index === at ? 'now' : ''}>${index < at || file.step === 'indexed' ? '✓ ' : ''}${step}</span>`)}
        ${found && html`<span class="faint">${found}</span>`}</span>`}
  </li>`;
}
