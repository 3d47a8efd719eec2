// The calls that are open now and that the person may see, newest first, asked for every few seconds.

import { useEffect, useState } from 'preact/hooks';

import { get, listOf } from '../api.js';

const EVERY_MS = 3000;

/** @returns {{calls: any[]|null, error: any}} null until the first answer */
export function useOpenCalls() {
  const [state, setState] = useState({ calls: null, error: null });
  useEffect(() => {
    let timer = 0;
    let isGone = false;
    const ask = async () => {
      try {
        const calls = listOf(await get('/v1/calls?state=open'), 'calls');
        calls.sort((a, b) => String(b.started_at).localeCompare(String(a.started_at)));
        if (!isGone) setState({ calls, error: null });
      } catch (error) {
        if (!isGone) setState((before) => ({ ...before, error }));
      }
      if (!isGone) timer = setTimeout(ask, EVERY_MS);
    };
    ask();
    return () => {
      isGone = true;
      clearTimeout(timer);
    };
  }, []);
  return state;
}
