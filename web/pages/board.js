// `/board`: all open calls of the tenant, those that need somebody first.

import { useEffect, useMemo, useState } from 'preact/hooks';
import { signal } from '@preact/signals';

import { html } from '../html.js';
import { Empty, Problem } from '../parts/failure.js';
import { EmotionWord } from '../parts/emotion.js';
import { History } from '../parts/history.js';
import { Sparkline } from '../parts/sparkline.js';
import { SEVERITY_TONES, TONES, clock, plural, span, timer } from '../text.js';
import { act, emptyBoard, isUpset, lagP95, silence } from '../state/board.js';
import { get, listOf } from '../api.js';
import { go } from '../router.js';
import { holdMs, isBehind } from '../state/voice.js';
import { loadTitles, nameOf, named } from '../bases.js';
import { now } from '../clock.js';
import { perFrame, watch } from '../socket.js';
import { assistant, whyNoEmotion } from '../session.js';
import { useAssistant } from '../parts/use_assistant.js';
import { useNode } from '../parts/use_node.js';
import { useReadiness } from '../parts/readiness.js';

const POLL_MS = 3000;
// Hundreds of calls speak at once, and nobody reads faster than this.
const DRAW_EVERY_MS = 250;
const FRESH_ALERT_MS = 120_000;

/** Starts watching the board. */
function watchBoard() {
  const board = signal(emptyBoard());
  const link = signal({ status: 'connecting', since: Date.now() });
  const error = signal(null);
  const dispatch = (action) => { board.value = act(board.value, { ...action, now: Date.now() }); };
  const take = perFrame((messages) => {
    for (const message of messages) {
      if (message.type === 'snapshot') dispatch({ do: 'list', calls: message.calls, isAll: true });
      else dispatch({ do: 'receive', envelope: message.envelope, lagMs: message.lagMs });
    }
  }, DRAW_EVERY_MS);
  const onMessage = (message) => take(message.type === 'snapshot' ? message
    : { envelope: message, lagMs: Date.now() - new Date(message.at).getTime() });
  const socket = watch({ path: () => '/v1/events', onMessage, onLink: (value) => { link.value = value; } });
  // The stream leaves out segments: the last sentences come with the list.
  const poll = async () => {
    const askedAt = Date.now();
    try {
      const answer = await get('/v1/calls?state=open&limit=500');
      dispatch({ do: 'list', calls: listOf(answer, 'calls'), isAll: false, isComplete: !answer.next, askedAt });
      error.value = null;
    } catch (failure) {
      error.value = failure;
    }
    dispatch({ do: 'tick' });
  };
  poll();
  const timer = setInterval(poll, POLL_MS);
  return { board, link, error, stop: () => { clearInterval(timer); socket.stop(); } };
}

export function Board() {
  const live = useMemo(watchBoard, []);
  useAssistant();
  const [filter, setFilter] = useState('');
  const [view, setView] = useState(() => sessionStorage.getItem('board-view') ?? 'tiles');
  useEffect(() => {
    loadTitles();
    return live.stop;
  }, [live]);
  const show = (name) => {
    sessionStorage.setItem('board-view', name);
    setView(name);
  };
  const state = live.board.value;
  const all = state.order.map((id) => state.calls[id]).filter(Boolean);
  const calls = all.filter((call) => matches(call, filter));
  const View = view === 'table' ? CallTable : Tiles;
  return html`<main id="main" tabindex="-1" class="board">
    <${Strip} state=${state} all=${all} link=${live.link.value} />
    <div class="board-tools">
      <input type="search" value=${filter} onInput=${(event) => setFilter(event.target.value)} placeholder="Filter: agent, customer, base, words, emotion" aria-label="Filter the calls" />
      <div class="switch" role="group" aria-label="View">
        <button aria-pressed=${view === 'tiles'} onClick=${() => show('tiles')}>Tiles</button>
        <button aria-pressed=${view === 'table'} onClick=${() => show('table')}>Table</button>
      </div>
      <span class="faint ranking">most in need first; the order holds for ten seconds</span>
    </div>
    <${Problem} error=${live.error.value} />
    ${all.length === 0 && html`<${Empty} title="No call is open"><p>Calls appear here the moment they begin.</p><//>`}
    ${all.length > 0 && calls.length === 0 && html`<${Empty} title="No open call matches">
      <div class="row"><button onClick=${() => setFilter('')}>Show all ${all.length}</button></div><//>`}
    ${calls.length > 0 && html`<${View} calls=${calls} />`}
    <${History} points=${state.history} />
  </main>`;
}

function matches(call, filter) {
  const asked = filter.trim().toLowerCase();
  if (!asked) return true;
  const text = [call.agent, call.customer, call.call, named(call.knowledge), call.last?.text, call.mood?.label, call.flag !== null && 'flagged']
    .filter(Boolean).join(' ').toLowerCase();
  return asked.split(/\s+/).every((word) => text.includes(word));
}

function Strip({ state, all, link }) {
  const upset = all.filter(isUpset).length;
  const flagged = all.filter((call) => call.flag !== null).length;
  const alerts = all.reduce((sum, call) => sum + freshAlerts(call).length, 0);
  const node = useNode();
  // The server measures up to the page's socket; without its figure, what this page has seen.
  const lag = node?.lag_p95_ms ?? lagP95(state.lags);
  const ready = useReadiness();
  const health = nodeHealth(node, ready);
  return html`<section class="strip" aria-label="All calls now">
    <${Figure} value=${all.length} words=${all.length === 1 ? 'open call' : 'open calls'} />
    <${Figure} value=${upset} words="frustrated or angry" tone=${upset > 0 ? 'warn' : ''} />
    <${Figure} value=${flagged} words="flagged by agents" tone=${flagged > 0 ? 'warn' : ''} />
    <${Figure} value=${alerts} words="alerts in 2 minutes" tone=${alerts > 0 ? 'bad' : ''} />
    <${Figure} value=${lag === null ? '–' : `${Math.round(lag)} ms`} words="p95 lag" title="95 of 100 events came faster" />
    <${Figure} value=${node?.engine?.waiting ?? '–'} words="model queue" title=${queueTitle(node)} tone=${node?.engine?.waiting > node?.engine?.running ? 'warn' : ''} />
    ${health && html`<${Figure} value=${health.isWell ? 'ready' : 'degraded'} words=${health.word} tone=${health.isWell ? '' : 'warn'} />`}
    <p class="strip-link" role="status">${link.status === 'live' ? html`<span class="link-state live">● live</span>`
      : link.status === 'lost' ? html`<span class="link-state lost">○ lost, coming back <span class="number">${Math.round((now.value - link.since) / 1000)} s</span></span>`
        : html`<span class="link-state faint">○ connecting</span>`}</p>
  </section>`;
}

/** Returns how the node is, in words. What is missing says more than that something is. */
function nodeHealth(node, ready) {
  if (ready && !ready.isWell) return ready;
  if (node && !node.ready) return { word: 'the node is not ready', isWell: false };
  return ready && { word: 'database, index, model', isWell: true };
}

const queueTitle = (node) => (node?.engine ? `${plural(node.engine.running, 'request')} in work, ${node.engine.waiting} waiting` : 'The server does not say');

function Figure({ value, words, tone = '', title }) {
  return html`<p class=${`figure ${tone && `tone-${tone}`}`} title=${title}><strong class="number">${value}</strong><span>${words}</span></p>`;
}

const freshAlerts = (call) => call.alerts.filter((alert) => alert.kind !== 'flag' && now.value - alert.at < FRESH_ALERT_MS);

function Badges({ call }) {
  const quiet = silence(call, now.value);
  const voice = call.voice?.is_live ? call.voice : null;
  const alerts = freshAlerts(call);
  const worst = alerts.some((alert) => alert.severity === 'critical') ? 'critical' : 'warning';
  return html`<span class="badges">
    ${call.flag !== null && html`<span class="badge tone-warn" title=${call.flag}>⚑ asks for help</span>`}
    ${alerts.length > 0 && html`<span class=${`badge tone-${SEVERITY_TONES[worst]}`} title=${alerts.map((alert) => alert.message).join('\n')}>! ${plural(alerts.length, 'alert')}</span>`}
    ${voice?.on_hold && html`<span class="badge tone-cool number"><span aria-hidden="true">❚❚</span> on hold ${timer(holdMs(voice, now.value))}</span>`}
    ${quiet > 0 && html`<span class=${`badge number ${voice ? 'tone-warn' : ''}`}>${voice ? '! ' : ''}silent ${Math.round(quiet / 1000)} s</span>`}
    ${voice && isBehind(voice) && html`<span class="badge tone-warn number" title="Recognition is behind what is said">! text ${span(voice.lag_ms)} behind</span>`}
    ${call.draft === 'failed' && html`<span class="badge">drafts failing</span>`}
    ${call.isNoted && html`<span class="badge">whispered</span>`}
  </span>`;
}

const link = (call) => `/calls/${encodeURIComponent(call.call)}`;
const age = (call) => (call.openedAt ? clock(now.value - call.openedAt) : '–');

function Tiles({ calls }) {
  const silent = whyNoEmotion(assistant.value);
  return html`<ol class="tiles">
    ${calls.map((call) => html`<li key=${call.call}><a class=${`tile ${call.flag !== null || isUpset(call) ? 'needs' : ''} edge-${TONES[call.mood?.label] ?? 'plain'}`} href=${link(call)}>
      <header><strong>${nameOf(call)}</strong><span class="number faint">${age(call)}</span></header>
      <p class="faint tile-who">${[call.agent, call.customer && named(call.knowledge), call.channel].filter(Boolean).join(' · ')}</p>
      <p class="tile-mood">${call.mood ? html`<${EmotionWord} mood=${call.mood} />` : html`<span class="faint" title=${silent}>${silent ? 'emotion –' : 'listening'}</span>`}
        <${Sparkline} values=${call.valences} tone=${TONES[call.mood?.label] ?? 'plain'} label="Valence" /></p>
      <p class="last">${call.last ? html`<span class="faint">${call.last.speaker}</span> ${call.last.text}` : html`<span class="faint">${call.voice?.recognised === false ? 'no speech model: no transcript' : 'nothing said yet'}</span>`}</p>
      <${Badges} call=${call} />
    </a></li>`)}
  </ol>`;
}

function CallTable({ calls }) {
  return html`<div class="table-box"><table>
    <thead><tr><th>Customer</th><th>Agent</th><th>Base</th><th class="right">Time</th><th>Emotion</th><th>Valence</th><th>Last words</th><th>Needs</th></tr></thead>
    <tbody>${calls.map((call) => html`<tr key=${call.call} class="pressable" onClick=${(event) => { if (!event.target.closest('a')) go(link(call)); }}>
      <td><a href=${link(call)}>${nameOf(call)}</a></td><td>${call.agent}</td><td>${named(call.knowledge)}</td>
      <td class="number right">${age(call)}</td>
      <td>${call.mood ? html`<${EmotionWord} mood=${call.mood} />` : '–'}</td>
      <td><${Sparkline} values=${call.valences} tone=${TONES[call.mood?.label] ?? 'plain'} /></td>
      <td class="last-cell">${call.last && html`<span class="last"><span class="faint">${call.last.speaker}</span> ${call.last.text}</span>`}</td>
      <td><${Badges} call=${call} /></td></tr>`)}</tbody>
  </table></div>`;
}
