// Setting a password: the field with its rule, and the dialog that sets one for somebody.

import { useState } from 'preact/hooks';

import { html } from '../html.js';
import { Dialog } from './dialog.js';
import { Problem } from './failure.js';
import { request, v1 } from '../api.js';

/** The server's rule: it takes none that is shorter. */
const LEAST_CHARACTERS = 10;

/** @param {{label: string, value: string, onInput: (value: string) => void, isFocused?: boolean}} props */
export function NewPassword({ label, value, onInput, isFocused = false }) {
  const [isShown, setShown] = useState(false);
  return html`<label class="grow"><span>${label} <span class="faint">(at least ${LEAST_CHARACTERS} characters)</span></span>
    <span class="joined"><input type=${isShown ? 'text' : 'password'} value=${value} onInput=${(event) => onInput(event.target.value)} required
        minlength=${LEAST_CHARACTERS} maxlength="256" autocomplete="new-password" autocapitalize="none" spellcheck="false" autofocus=${isFocused} />
      <button type="button" class="small" aria-pressed=${isShown} onClick=${() => setShown(!isShown)}>${isShown ? 'hide' : 'show'}</button></span></label>`;
}

/** @param {{user: {name: string, has_password: boolean}, isOwn: boolean, onClose: () => void, onDone: () => void}} props */
export function PasswordDialog({ user, isOwn, onClose, onDone }) {
  const [password, setPassword] = useState('');
  const [error, setError] = useState(null);
  const [isBusy, setBusy] = useState(false);
  const save = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await request('PATCH', v1('users', user.name), { password });
      onDone();
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${isOwn ? 'Your password' : `Password of ${user.name}`} onClose=${onClose}>
    <form class="stack" onSubmit=${save}>
      <input class="visually-hidden" type="text" name="username" value=${user.name} autocomplete="username" readonly tabindex="-1" aria-hidden="true" />
      <${NewPassword} label="New password" value=${password} onInput=${setPassword} isFocused />
      <p class="faint small">${isOwn ? 'All of your sessions end, this one too: sign in again with the new password.'
        : `The sessions of ${user.name} end, and links that were not used yet no longer work. Tell them the password yourself: it is not shown again.`}</p>
      <${Problem} error=${error} />
      <div class="row"><button class="primary" disabled=${isBusy}>${isBusy ? 'Setting …' : 'Set the password'}</button></div>
    </form><//>`;
}
