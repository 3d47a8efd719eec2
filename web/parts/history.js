// The last minutes as a chart, and as the table that the chart was drawn from.

import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';

import { html } from '../html.js';

const HEIGHT_PX = 180;
const WINDOW_S = 600;
const TABLE_EVERY = 10;

/** @param {{points: {at: number, calls: number, valence: number|null, upset: number}[]}} props */
export function History({ points }) {
  const box = useRef(null);
  const chart = useRef(null);
  useEffect(() => {
    const element = box.current;
    const make = () => {
      const data = chart.current?.data ?? rows(points);
      chart.current?.destroy();
      chart.current = new uPlot(options(element.clientWidth), data, element);
    };
    make();
    const resized = new ResizeObserver(() => chart.current.setSize({ width: element.clientWidth, height: HEIGHT_PX }));
    resized.observe(element);
    // Colours come from the custom properties: a change of scheme draws anew.
    const scheme = matchMedia('(prefers-color-scheme: dark)');
    const theme = new MutationObserver(make);
    theme.observe(document.documentElement, { attributeFilter: ['data-theme'] });
    scheme.addEventListener('change', make);
    return () => {
      resized.disconnect();
      theme.disconnect();
      scheme.removeEventListener('change', make);
      chart.current.destroy();
    };
  }, []);
  useEffect(() => { chart.current?.setData(rows(points)); }, [points]);
  const shown = points.filter((_point, index) => index % TABLE_EVERY === 0).reverse();
  return html`<section class="history" aria-label="The last minutes">
    <h2 class="caption">The last minutes: mean valence of all customers, open calls, frustrated or angry</h2>
    <div ref=${box} class="chart" aria-hidden="true"></div>
    <details><summary>The figures as a table</summary>
      <div class="table-box"><table><thead><tr><th>Time</th><th class="right">Mean valence</th><th class="right">Open calls</th><th class="right">Frustrated or angry</th></tr></thead>
        <tbody>${shown.map((point) => html`<tr key=${point.at}><td class="number">${new Date(point.at).toLocaleTimeString('en-GB')}</td>
          <td class="number right">${point.valence === null ? '–' : point.valence.toFixed(2)}</td><td class="number right">${point.calls}</td><td class="number right">${point.upset}</td></tr>`)}</tbody></table></div>
    </details>
  </section>`;
}

function rows(points) {
  return [
    points.map((point) => point.at / 1000),
    points.map((point) => point.valence),
    points.map((point) => point.calls),
    points.map((point) => point.upset),
  ];
}

function options(width) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => resolved(style.getPropertyValue(name).trim());
  const axis = { stroke: colour('--ink-faint'), grid: { stroke: colour('--line'), width: 1 }, ticks: { show: false }, font: '12px system-ui', size: 44 };
  return {
    width,
    height: HEIGHT_PX,
    padding: [12, 8, 0, 0],
    cursor: { y: false },
    legend: { live: false },
    scales: { x: { range: (_chart, _first, last) => [last - WINDOW_S, last] }, valence: { range: [-1, 1] }, calls: { range: (_chart, _low, high) => [0, Math.max(4, Math.ceil((high ?? 0) * 1.2))] } },
    axes: [
      { ...axis, size: 28, grid: { show: false }, incrs: [60, 120, 300], space: 60, values: (_chart, times) => times.map((time) => new Date(time * 1000).toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' })) },
      { ...axis, scale: 'valence', values: (_chart, values) => values.map((value) => value.toFixed(1)) },
      { ...axis, scale: 'calls', side: 1, grid: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500] },
    ],
    series: [
      { label: 'time' },
      { label: 'mean valence', scale: 'valence', stroke: colour('--accent'), width: 2, points: { show: false } },
      { label: 'open calls', scale: 'calls', stroke: colour('--ink-faint'), width: 1.5, dash: [5, 4], points: { show: false } },
      { label: 'frustrated or angry', scale: 'calls', stroke: colour('--warn'), width: 1.5, dash: [2, 3], points: { show: false } },
    ],
  };
}

/** Returns a colour that a canvas understands: `light-dark()` is resolved by the browser. @param {string} value */
function resolved(value) {
  const probe = document.createElement('span');
  probe.style.color = value;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}
