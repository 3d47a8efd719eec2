// Requests to the server, and its errors as values that a person can read.

import { sentence } from './text.js';
import { session } from './session.js';

/** An answer that was not a success. */
export class ApiError extends Error {
  /** @param {number} status @param {string} code @param {string} message @param {string|null} id */
  constructor(status, code, message, id) {
    super(message);
    this.status = status;
    this.code = code;
    this.id = id;
  }
}

/** Joins path pieces, each escaped, to a path under `/v1`. @param {...string|number} pieces */
export function v1(...pieces) {
  return ['/v1', ...pieces.map((piece) => encodeURIComponent(String(piece)))].join('/');
}

/**
 * Sends a request and returns the answer's JSON, or null where it has none.
 * @param {string} method @param {string} path @param {any} [body] @param {AbortSignal} [signal]
 */
export async function request(method, path, body, signal) {
  return (await exchange(method, path, { body, signal })).value;
}

/**
 * Sends a request and returns the answer's JSON with its version tag.
 * @param {string} method @param {string} path
 * @param {{body?: any, signal?: AbortSignal, ifMatch?: string|null}} [how] `ifMatch` is the version that a change was made to
 * @returns {Promise<{value: any, etag: string|null}>}
 */
export async function exchange(method, path, { body, signal, ifMatch } = {}) {
  const options = { method, signal, headers: { accept: 'application/json' }, credentials: 'same-origin' };
  if (body !== undefined) {
    options.headers['content-type'] = 'application/json';
    options.body = JSON.stringify(body);
  }
  if (ifMatch) options.headers['if-match'] = ifMatch;
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, 'offline', 'The server does not answer. Check that it runs, then try again.', null);
  }
  const text = await answer.text();
  if (answer.ok) return { value: text ? parse(text) : null, etag: answer.headers.get('etag') };
  if (answer.status === 401 && path !== '/v1/session') session.value = null;
  throw errorOf(answer.status, text, answer.headers.get('x-request-id'));
}

/** Reads the server's error form. @param {number} status @param {string} text @param {string|null} id */
export function errorOf(status, text, id) {
  const error = parse(text)?.error;
  const message = error?.message ?? `The server answered ${status}.`;
  return new ApiError(status, error?.code ?? 'error', sentence(message), id);
}

export const get = (path, signal) => request('GET', path, undefined, signal);
export const post = (path, body = {}) => request('POST', path, body);
export const put = (path, body = {}) => request('PUT', path, body);
export const remove = (path) => request('DELETE', path);

/** Returns the list in an answer, whether it is bare or under one of `names`. @param {any} answer @param {...string} names */
export function listOf(answer, ...names) {
  if (Array.isArray(answer)) return answer;
  for (const name of names) if (Array.isArray(answer?.[name])) return answer[name];
  return [];
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
