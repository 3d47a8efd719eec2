// `/users`: who may come in: people, and the keys of machines.

import { useEffect, useState } from 'preact/hooks';

import { html } from '../html.js';
import { NewPassword, PasswordDialog } from '../parts/password.js';
import { Problem } from '../parts/failure.js';
import { Secret } from '../parts/secret.js';
import { get, listOf, post, remove, request, v1 } from '../api.js';
import { moment } from '../text.js';
import { session } from '../session.js';

const ROLES = {
  agent: 'agent: their own calls',
  supervisor: 'supervisor: all calls',
  admin: 'admin: knowledge, terms, users',
};
const KEY_ROLES = { ingest: 'ingest: opens and feeds calls', ...ROLES };

export function Users() {
  return html`<main id="main" tabindex="-1" class="page"><${People} /><${Keys} /></main>`;
}

/** Loads a list and keeps it; `attempt` runs a change, shows its failure, and loads anew. */
function useList(path, name) {
  const [rows, setRows] = useState(null);
  const [error, setError] = useState(null);
  const load = async () => setRows(listOf(await get(path), name));
  const attempt = async (work) => {
    try {
      const made = await work();
      setError(null);
      await load();
      return made ?? true;
    } catch (failure) {
      setError(failure);
      return null;
    }
  };
  useEffect(() => { load().catch(setError); }, []);
  return { rows, error, attempt };
}

function People() {
  const { rows, error, attempt } = useList('/v1/users', 'users');
  const [name, setName] = useState('');
  const [role, setRole] = useState('agent');
  const [entry, setEntry] = useState('link');
  const [password, setPassword] = useState('');
  const [link, setLink] = useState(null);
  const [done, setDone] = useState('');
  const [changing, setChanging] = useState(null);
  const add = async (event) => {
    event.preventDefault();
    const withPassword = entry === 'password';
    const made = await attempt(() => post('/v1/users', { name: name.trim(), role, ...(withPassword ? { password } : {}) }));
    if (!made) return;
    setLink(made.link ? { name: made.name, path: made.link } : null);
    setDone(withPassword ? `${made.name} can sign in with the password now.` : '');
    setName('');
    setPassword('');
  };
  const onPassword = () => {
    setDone(`The password of ${changing.name} is set.`);
    setChanging(null);
    attempt(() => null); // Loads the list anew.
  };
  const newLink = async (user) => {
    setDone('');
    const made = await attempt(() => post(v1('users', user.name, 'link')));
    if (made) setLink({ name: user.name, path: made.link });
  };
  const change = (user, fields) => attempt(() => request('PATCH', v1('users', user.name), fields));
  return html`<section class="panel-box"><h1>People</h1>
    <form class="row add-row" onSubmit=${add}>
      <label class="grow">Name<input value=${name} onInput=${(event) => setName(event.target.value)} required spellcheck="false" autocapitalize="none" placeholder="jo" /></label>
      <label>Role<select value=${role} onChange=${(event) => setRole(event.target.value)}>${Object.entries(ROLES).map(([value, shown]) => html`<option key=${value} value=${value}>${shown}</option>`)}</select></label>
      <label>First sign-in<select value=${entry} onChange=${(event) => setEntry(event.target.value)}><option value="link">with a one-time link</option><option value="password">with a password that you set</option></select></label>
      ${entry === 'password' && html`<${NewPassword} label="Password" value=${password} onInput=${setPassword} />`}
      <button class="primary">Add</button>
    </form>
    <${Problem} error=${error} />
    ${done && html`<p class="tone-good" role="status">✓ ${done}</p>`}
    ${link?.path && html`<${Secret} title=${`One-time link for ${link.name}`} value=${new URL(link.path, location.origin).href}
      says="It works once, within a day. It is not shown again." onDone=${() => setLink(null)} />`}
    <div class="table-box"><table>
      <thead><tr><th>Name</th><th>Role</th><th>Signs in with</th><th>Since</th><th><span class="visually-hidden">Actions</span></th></tr></thead>
      <tbody>${(rows ?? []).map((user) => html`<tr key=${user.name} class=${user.disabled ? 'off' : ''}>
        <td><strong>${user.name}</strong>${user.name === session.value?.name && html` <span class="badge">you</span>`}${user.disabled && html` <span class="badge">disabled</span>`}</td>
        <td><select aria-label=${`Role of ${user.name}`} value=${user.role} disabled=${user.name === session.value?.name}
          onChange=${(event) => change(user, { role: event.target.value })}>${Object.keys(ROLES).map((value) => html`<option key=${value}>${value}</option>`)}</select></td>
        <td>${user.has_password ? 'password' : 'links'}</td><td class="number">${moment(user.created_at)}</td>
        <td class="right actions-cell">
          ${!user.disabled && html`<button class="small" onClick=${() => newLink(user)} aria-label=${`New link for ${user.name}`}>New link</button>
            <button class="small" onClick=${() => setChanging(user)} aria-label=${`${user.has_password ? 'Change' : 'Set'} the password of ${user.name}`}>${user.has_password ? 'Change' : 'Set'} password</button>`}
          ${user.name !== session.value?.name && html`<button class="small" onClick=${() => change(user, { disabled: !user.disabled })}>${user.disabled ? 'Enable' : 'Disable'}</button>`}
        </td></tr>`)}</tbody></table></div>
    ${changing && html`<${PasswordDialog} user=${changing} isOwn=${changing.name === session.value?.name} onClose=${() => setChanging(null)} onDone=${onPassword} />`}
  </section>`;
}

function Keys() {
  const { rows, error, attempt } = useList('/v1/keys', 'keys');
  const [name, setName] = useState('');
  const [role, setRole] = useState('ingest');
  const [made, setMade] = useState(null);
  const [sure, setSure] = useState(null);
  const add = async (event) => {
    event.preventDefault();
    const key = await attempt(() => post('/v1/keys', { name: name.trim(), role }));
    if (!key) return;
    setMade(key);
    setName('');
  };
  const revoke = (key) => {
    if (sure !== key.id) return setSure(key.id);
    setSure(null);
    return attempt(() => remove(v1('keys', key.id)));
  };
  return html`<section class="panel-box"><h1>Keys for machines</h1>
    <form class="row add-row" onSubmit=${add}>
      <label class="grow">Name<input value=${name} onInput=${(event) => setName(event.target.value)} required spellcheck="false" placeholder="telephone-system" /></label>
      <label>Role<select value=${role} onChange=${(event) => setRole(event.target.value)}>${Object.entries(KEY_ROLES).map(([value, shown]) => html`<option key=${value} value=${value}>${shown}</option>`)}</select></label>
      <button class="primary">Create</button>
    </form>
    <${Problem} error=${error} />
    ${made && html`<${Secret} title=${`Key “${made.name}”`} value=${made.key} says="Send it as Authorization: Bearer KEY. It is not shown again." onDone=${() => setMade(null)} />`}
    ${rows?.length === 0 && html`<p class="faint pad">No keys yet. A telephone system needs one to send calls.</p>`}
    ${rows?.length > 0 && html`<div class="table-box"><table>
      <thead><tr><th>Name</th><th>Role</th><th>Made</th><th>Last used</th><th><span class="visually-hidden">Actions</span></th></tr></thead>
      <tbody>${rows.map((key) => html`<tr key=${key.id} class=${key.revoked ? 'off' : ''}>
        <td><strong>${key.name}</strong> <span class="faint">${key.id}</span>${key.revoked && html` <span class="badge">revoked</span>`}</td>
        <td>${key.role}</td><td class="number">${moment(key.created_at)}</td><td class="number">${moment(key.last_used_at) || 'never'}</td>
        <td class="right actions-cell">${!key.revoked && html`<button class="small danger" onClick=${() => revoke(key)}>${sure === key.id ? 'Really: press again' : 'Revoke'}</button>`}</td></tr>`)}</tbody></table></div>`}
  </section>`;
}
