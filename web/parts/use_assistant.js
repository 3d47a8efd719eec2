// Keeps what is known of the assistant fresh while a page that depends on it is open: the server
// may stop drafting when it falls behind, and start again.

import { useEffect } from 'preact/hooks';

import { get } from '../api.js';
import { session } from '../session.js';

const EVERY_MS = 15_000;

export function useAssistant() {
  useEffect(() => {
    let timer = 0;
    let isGone = false;
    const ask = async () => {
      try {
        const answer = await get('/v1/session');
        if (!isGone && JSON.stringify(answer) !== JSON.stringify(session.value)) session.value = answer;
      } catch (error) {
        if (!isGone && error.status === 401) session.value = null;
      }
      if (!isGone) timer = setTimeout(ask, EVERY_MS);
    };
    ask();
    return () => {
      isGone = true;
      clearTimeout(timer);
    };
  }, []);
}
