// One article: read, change, delete, or write a new one. Every change is a new version of its base.

import { useEffect, useState } from 'preact/hooks';

import { html } from '../html.js';
import { Dialog } from './dialog.js';
import { Problem } from './failure.js';
import { get, put, remove, v1 } from '../api.js';

/** @param {{base: string, id: string, onClose: () => void, onChanged: () => void}} props an empty id writes a new one */
export function ArticleDialog({ base, id, onClose, onChanged }) {
  const isNew = id === '';
  const [article, setArticle] = useState(isNew ? { id: '', title: '', category: '', body: '', format: 'markdown' } : null);
  const [error, setError] = useState(null);
  const [isSure, setSure] = useState(false);
  const [isBusy, setBusy] = useState(false);
  useEffect(() => {
    if (!isNew) get(v1('knowledge', base, 'articles', id)).then(setArticle, setError);
  }, [base, id]);
  const change = (field) => (event) => setArticle({ ...article, [field]: event.target.value });
  const attempt = async (work) => {
    setBusy(true);
    try {
      await work();
      onChanged();
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  const save = (event) => {
    event.preventDefault();
    const { title, category, body, format, updated } = article;
    const name = isNew ? article.id.trim() || slug(title) : id;
    attempt(() => put(v1('knowledge', base, 'articles', name), {
      title: title.trim(), body, format, ...(category ? { category } : {}), ...(updated ? { updated } : {}),
    }));
  };
  const erase = () => (isSure ? attempt(() => remove(v1('knowledge', base, 'articles', id))) : setSure(true));
  return html`<${Dialog} title=${isNew ? 'New article' : article?.title ?? 'Article'} onClose=${onClose} kind="wide">
    ${article && html`<form class="stack" onSubmit=${save}>
      <label>Title<input value=${article.title} onInput=${change('title')} required /></label>
      <div class="pair">
        <label>Category<input value=${article.category ?? ''} onInput=${change('category')} /></label>
        <label>Id<input value=${isNew ? article.id : id} onInput=${change('id')} readonly=${!isNew} placeholder=${slug(article.title)} spellcheck="false" /></label>
      </div>
      <label><span>Text <span class="faint">(${article.format === 'text' ? 'plain text' : 'Markdown'})</span></span>
        <textarea class="article-body" value=${article.body} onInput=${change('body')} required spellcheck="true"></textarea></label>
      <${Problem} error=${error} />
      <div class="row">
        <button class="primary" disabled=${isBusy}>${isBusy ? 'Publishing …' : 'Save and publish'}</button>
        ${!isNew && html`<button type="button" class="danger" disabled=${isBusy} onClick=${erase}>${isSure ? 'Really delete: press again' : 'Delete'}</button>`}
        <span class="faint">Running calls search it at once.</span>
      </div>
    </form>`}
    ${!article && html`<${Problem} error=${error} />`}
  <//>`;
}

const slug = (title) => title.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-').replaceAll(/^-+|-+$/g, '').slice(0, 60);
