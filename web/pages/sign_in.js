// Sign-in. One-time links never come here: the server takes them and sends their owner home.

import { useState } from 'preact/hooks';

import { html } from '../html.js';
import { Mark } from '../parts/mark.js';
import { Problem } from '../parts/failure.js';
import { post } from '../api.js';
import { session } from '../session.js';

export function SignIn() {
  const [name, setName] = useState('');
  const [password, setPassword] = useState('');
  const [error, setError] = useState(null);
  const [isBusy, setBusy] = useState(false);
  const enter = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      session.value = await post('/v1/session', { name: name.trim(), password });
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return html`<main id="main" tabindex="-1" class="sign-in">
    <form onSubmit=${enter}>
      <h1 class="brand"><${Mark} />ChatDLM</h1>
      <p class="faint">Listens to a call, finds what answers it, drafts what to say.</p>
      <label>Name<input name="name" value=${name} onInput=${(event) => setName(event.target.value)} autocomplete="username" autocapitalize="none" spellcheck="false" required autofocus /></label>
      <label>Password<input name="password" type="password" value=${password} onInput=${(event) => setPassword(event.target.value)} autocomplete="current-password" required /></label>
      <${Problem} error=${error} />
      <button class="primary" disabled=${isBusy}>${isBusy ? 'Signing in …' : 'Sign in'}</button>
      <p class="faint small">No password yet? Open the one-time link that your admin gave you, or that the server printed when it started.</p>
    </form>
  </main>`;
}
