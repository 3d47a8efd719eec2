// A small line of valence over time: up is pleasant, the thin rule is neutral.

import { html } from '../html.js';

const WIDTH = 72;
const HEIGHT = 20;

/** @param {{values: number[], tone?: string, label?: string}} props values from −1 to 1, oldest first */
export function Sparkline({ values, tone = 'plain', label = 'Valence' }) {
  const recent = values.slice(-24);
  const x = (index) => (recent.length < 2 ? WIDTH - 3 : 3 + (index * (WIDTH - 6)) / (recent.length - 1));
  const y = (value) => HEIGHT / 2 - Math.max(-1, Math.min(1, value)) * (HEIGHT / 2 - 3);
  const points = recent.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`);
  const spoken = recent.length === 0 ? `${label}: nothing yet`
    : `${label}: from ${recent[0].toFixed(1)} to ${recent.at(-1).toFixed(1)}`;
  return html`<svg class=${`sparkline tone-${tone}`} viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label=${spoken}>
    <title>${spoken}</title>
    <line x1="0" x2=${WIDTH} y1=${HEIGHT / 2} y2=${HEIGHT / 2} class="rule" />
    ${points.length > 1 && html`<polyline points=${points.join(' ')} />`}
    ${points.length > 0 && html`<circle cx=${x(recent.length - 1)} cy=${y(recent.at(-1))} r="2.2" />`}
  </svg>`;
}
