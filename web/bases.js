// The knowledge bases' titles, asked for once. Without them a base is called by its id.

import { signal } from '@preact/signals';

import { get, listOf } from './api.js';

/** Titles by id. */
export const titles = signal(/** @type {Record<string, string>} */ ({}));

/** Asks for the titles. */
export async function loadTitles() {
  try {
    const bases = listOf(await get('/v1/knowledge'), 'bases');
    titles.value = Object.fromEntries(bases.map((base) => [base.id ?? base.base, base.title]));
  } catch {
    // Ids will do.
  }
}

/** Returns what to call a call: by its customer, else by whom they called. @param {{call: string, customer?: string|null, knowledge?: string[]}} call */
export function nameOf(call) {
  return call.customer || named(call.knowledge ?? []) || call.call;
}

/** Returns the bases as people call them. @param {string[]} bases */
export function named(bases) {
  return bases.map((base) => titles.value[base] ?? base).join(', ');
}
