// The time as a signal that ticks each second, so that timers are functions of state too.

import { signal } from '@preact/signals';

/** Now, in milliseconds. */
export const now = signal(Date.now());

setInterval(() => { now.value = Date.now(); }, 1000);
