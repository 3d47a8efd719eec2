// The imports of this visit: each is uploaded, then followed until the last file is indexed.

import { useCallback, useEffect, useRef, useState } from 'preact/hooks';

import { follow, isOver, upload } from '../upload.js';
import { v1 } from '../api.js';

/**
 * @typedef {object} Import
 * @property {number} key
 * @property {string} base
 * @property {'sending'|'reading'|'done'|'failed'} phase
 * @property {number} sent share of the bytes that has left, from 0 to 1
 * @property {{name: string, size: number}[]} files
 * @property {any} state what the server says of it
 * @property {string|null} error
 */

/** @param {() => void} onChanged called when a base has changed */
export function useImports(onChanged) {
  const [list, setList] = useState(/** @type {Import[]} */ ([]));
  const last = useRef(0);
  const followed = useRef(new Set());
  useEffect(() => () => followed.current.forEach((stop) => stop()), []);

  const start = useCallback(async (base, files) => {
    if (files.length === 0) return;
    last.current += 1;
    const key = last.current;
    const change = (fields) => setList((before) => before.map((item) => (item.key === key ? { ...item, ...fields } : item)));
    setList((before) => [{
      key, base, phase: 'sending', sent: 0, state: null, error: null, files: files.map(({ name, size }) => ({ name, size })),
    }, ...before]);
    try {
      const answer = await upload(v1('knowledge', base, 'articles'), files, (sent) => change({ sent }));
      change({ phase: 'reading', sent: 1 });
      const stop = follow(`${v1('knowledge', 'imports', answer.import)}/progress`, (state) => {
        change({ state, phase: isOver(state) ? (state.state === 'failed' ? 'failed' : 'done') : 'reading', error: state.error ?? null });
        if (isOver(state)) onChanged();
      }, (message) => change({ phase: 'failed', error: message }));
      followed.current.add(stop);
    } catch (error) {
      change({ phase: 'failed', error: error.message });
    }
  }, [onChanged]);

  const forget = useCallback((key) => setList((before) => before.filter((item) => item.key !== key)), []);
  return { list, start, forget };
}
