// How the service is: `/readyz` in words.

import { useEffect, useState } from 'preact/hooks';

const EVERY_MS = 15_000;
const PARTS = { database: 'no database', index: 'no index', model: 'no model: drafts and emotions are off' };

/** @returns {{word: string, isWell: boolean}|null} null until the first answer */
export function useReadiness() {
  const [state, setState] = useState(null);
  useEffect(() => {
    let timer = 0;
    let isGone = false;
    const ask = async () => {
      let next = { word: 'no answer', isWell: false };
      try {
        // Not ready is an answer too, with the same body.
        next = read(await (await fetch('/readyz')).json());
      } catch {
        // The word above says it.
      }
      if (isGone) return;
      setState(next);
      timer = setTimeout(ask, EVERY_MS);
    };
    ask();
    return () => {
      isGone = true;
      clearTimeout(timer);
    };
  }, []);
  return state;
}

/** @param {Record<string, any>} answer */
function read(answer) {
  if (answer.stopping) return { word: 'stopping', isWell: false };
  const missing = Object.keys(PARTS).filter((part) => answer[part] === false).map((part) => PARTS[part]);
  return { word: missing.join(', ') || 'ready', isWell: missing.length === 0 };
}
