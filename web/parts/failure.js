// States that are not the usual one: empty, forbidden, failed. Each says what is so and what to do.

import { html } from '../html.js';

/** A failure with words and a way on. @param {{title: string, message: string, id?: string|null, children?: any}} props */
export function Failure({ title, message, id, children }) {
  return html`<section class="state" role="alert">
    <h1>${title}</h1>
    <p>${message}</p>
    ${id && html`<p class="faint">Quote this if you ask for help: <code>${id}</code></p>`}
    <div class="row">${children}</div>
  </section>`;
}

/** Nothing here yet: one sentence, one thing to do. @param {{title: string, children?: any}} props */
export function Empty({ title, children }) {
  return html`<section class="state"><h2>${title}</h2>${children}</section>`;
}

/** One line about what went wrong, beside the thing that did. @param {{error: any}} props */
export function Problem({ error }) {
  if (!error) return null;
  return html`<p class="problem" role="alert">${error.message}${error.id && html` <span class="faint">(${error.id})</span>`}</p>`;
}
