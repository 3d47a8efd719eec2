// The customer's emotion as a word, an arrow, and on demand every label's probability.

import { html } from '../html.js';
import { TONES, TRENDS } from '../text.js';

const BAR = 60;

/** A word with its trend. @param {{mood: {label: string, trend: string}}} props */
export function EmotionWord({ mood }) {
  const trend = TRENDS[mood.trend] ?? TRENDS.steady;
  return html`<span class=${`emotion tone-${TONES[mood.label] ?? 'plain'}`}>${mood.label}
    <span class="arrow" aria-hidden="true">${trend.arrow}</span><span class="visually-hidden">, ${trend.word}</span></span>`;
}

/** A word that opens to the probabilities behind it. @param {{mood: import('../state/call.js').Mood}} props */
export function EmotionDetail({ mood }) {
  const scores = Object.entries(mood.scores ?? {}).sort((a, b) => b[1] - a[1]);
  const share = mood.scores?.[mood.label];
  const tone = TONES[mood.label] ?? 'plain';
  return html`<span class=${`mood tone-${tone}`}>
    <span class="mood-word">${mood.label}${share !== undefined && html`<span class="number"> ${share.toFixed(2)}</span>`}</span>
    ${scores.length > 0 && html`<span class="popup mood-popup" role="tooltip">
      ${scores.map(([label, score]) => html`<span class="mood-row" key=${label}>
        <span>${label}</span>
        <svg viewBox="0 0 ${BAR} 6" width=${BAR} height="6" aria-hidden="true" class=${`tone-${TONES[label] ?? 'plain'}`}>
          <rect class="track" width=${BAR} height="6" rx="3" /><rect class="fill" width=${Math.max(1, BAR * score)} height="6" rx="3" /></svg>
        <span class="number">${score.toFixed(2)}</span></span>`)}
    </span>`}
  </span>`;
}
