// Sign-in. One-time links never come here: the server takes them and sends their owner home.

import { useState } from 'preact/hooks';

import { html } from '../html.js';
import { Mark } from '../parts/mark.js';
import { Problem } from '../parts/failure.js';
import { post } from '../api.js';
import { usedLink } from '../parts/used_link.js';
import { session } from '../session.js';

const KEY = 'chatdlm-organisation';

/** The organisation that somebody signed in to from this browser. */
function remembered() {
  try {
    return localStorage.getItem(KEY) ?? '';
  } catch {
    return ''; // Storage may be forbidden: they type it again.
  }
}

function remember(tenant) {
  try {
    if (tenant) localStorage.setItem(KEY, tenant);
    else localStorage.removeItem(KEY);
  } catch {
    // As above.
  }
}

export function SignIn() {
  const [tenant, setTenant] = useState(remembered);
  const [isElsewhere] = useState(tenant !== '');
  const [name, setName] = useState('');
  const [password, setPassword] = useState('');
  const [error, setError] = useState(null);
  const [isBusy, setBusy] = useState(false);
  const enter = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      const organisation = tenant.trim();
      const who = await post('/v1/session', { name: name.trim(), password, ...(organisation ? { tenant: organisation } : {}) });
      remember(organisation);
      usedLink.value = false;
      session.value = who;
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return html`<main id="main" tabindex="-1" class="sign-in">
    <form onSubmit=${enter}>
      <h1 class="brand"><${Mark} />ChatDLM</h1>
      ${usedLink.value ? html`<p class="notice" role="alert" id="link-used">This sign-in link was used already or has expired. Ask for a new one, or sign in with your password.</p>`
        : html`<p class="faint">Listens to a call, finds what answers it, drafts what to say.</p>`}
      <label>Name<input name="name" value=${name} onInput=${(event) => setName(event.target.value)} autocomplete="username" autocapitalize="none" spellcheck="false" required autofocus aria-describedby=${usedLink.value ? 'link-used' : undefined} /></label>
      <label>Password<input name="password" type="password" value=${password} onInput=${(event) => setPassword(event.target.value)} autocomplete="current-password" required /></label>
      <details class="elsewhere" open=${isElsewhere}><summary>Other organisation…</summary>
        <label><span>Organisation <span class="faint">(empty: the one that this server is for)</span></span>
          <input name="organization" value=${tenant} onInput=${(event) => setTenant(event.target.value)} autocomplete="organization" autocapitalize="none" spellcheck="false" /></label></details>
      <${Problem} error=${error} />
      <button class="primary" disabled=${isBusy}>${isBusy ? 'Signing in …' : 'Sign in'}</button>
      <p class="faint small">No password yet? Open the one-time link that your admin gave you, or that the server printed when it started.</p>
    </form>
  </main>`;
}
