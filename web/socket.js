// A websocket that comes back: it asks again for what it missed, waits longer each time, and says
// how it stands. The reader of the page decides what a message means.

const WAITS_MS = [400, 800, 1500, 3000, 5000];

/** @typedef {{status: 'connecting'|'live'|'lost', since: number}} Link */

/**
 * Watches a socket until the returned function is called.
 * @param {{
 *   path: () => string,
 *   onMessage: (message: any) => void,
 *   onLink: (link: Link) => void,
 * }} watcher `path` is asked anew at each attempt, so that it can carry the last number seen.
 * @returns {{stop: () => void, again: () => void}}
 */
export function watch({ path, onMessage, onLink }) {
  let socket = null;
  let attempts = 0;
  let timer = 0;
  let stopped = false;
  let lostAt = 0;

  function open() {
    clearTimeout(timer);
    if (stopped) return;
    const url = new URL(path(), location.href);
    url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
    const mine = new WebSocket(url);
    socket = mine;
    mine.onopen = () => {
      attempts = 0;
      lostAt = 0;
      onLink({ status: 'live', since: Date.now() });
    };
    mine.onmessage = (event) => {
      let message;
      try {
        message = JSON.parse(event.data);
      } catch {
        return; // Not ours: the server sends JSON only.
      }
      onMessage(message);
    };
    mine.onclose = () => {
      if (stopped || socket !== mine) return;
      lostAt ||= Date.now();
      onLink({ status: 'lost', since: lostAt });
      timer = setTimeout(open, WAITS_MS[Math.min(attempts, WAITS_MS.length - 1)]);
      attempts += 1;
    };
  }

  function drop() {
    const old = socket;
    socket = null;
    old?.close();
  }

  const onOnline = () => { if (lostAt) { drop(); open(); } };
  addEventListener('online', onOnline);
  onLink({ status: 'connecting', since: Date.now() });
  open();
  return {
    stop() {
      stopped = true;
      clearTimeout(timer);
      removeEventListener('online', onOnline);
      drop();
    },
    /** Connects anew, to fetch what was missed. */
    again() {
      drop();
      open();
    },
  };
}

/**
 * Collects what arrives within one animation frame, so that a burst is drawn once. A hidden page
 * draws no frames: a timer takes over there.
 * @template T
 * @param {(batch: T[]) => void} apply
 * @param {number} [leastMs] collects at least this long
 */
export function perFrame(apply, leastMs = 0) {
  /** @type {T[]} */
  let waiting = [];
  let isScheduled = false;
  const flush = () => {
    isScheduled = false;
    const batch = waiting;
    waiting = [];
    apply(batch);
  };
  return (/** @type {T} */ item) => {
    waiting.push(item);
    if (isScheduled) return;
    isScheduled = true;
    if (document.hidden || leastMs > 0) setTimeout(flush, Math.max(leastMs, 100));
    else requestAnimationFrame(flush);
  };
}
