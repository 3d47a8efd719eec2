// How the node does: `GET /v1/node`, for supervisors and admins. An older server has none.

import { useEffect, useState } from 'preact/hooks';

import { get } from '../api.js';

const EVERY_MS = 5000;

/** @typedef {{live_calls: number, lag_p95_ms: number|null, engine: {waiting: number, running: number}|null, ready: boolean}} Node */

/** @returns {Node|null} null while nothing is known */
export function useNode() {
  const [node, setNode] = useState(null);
  useEffect(() => {
    let timer = 0;
    let isGone = false;
    const ask = async () => {
      let next = null;
      let isThere = true;
      try {
        next = await get('/v1/node');
      } catch (error) {
        // Not there, or not for this role: asking again would change nothing.
        isThere = ![403, 404].includes(error.status);
      }
      if (isGone) return;
      setNode(next);
      if (isThere) timer = setTimeout(ask, EVERY_MS);
    };
    ask();
    return () => {
      isGone = true;
      clearTimeout(timer);
    };
  }, []);
  return node;
}
