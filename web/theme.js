// Light, dark, or as the system says. The choice is kept in this browser.

import { signal } from '@preact/signals';

const KEY = 'chatdlm-theme';
const CHOICES = ['auto', 'light', 'dark'];

/** The choice. */
export const theme = signal(CHOICES.includes(read()) ? read() : 'auto');

function read() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // Storage may be forbidden: the system's choice stands.
  }
}

/** Applies the choice to the page. */
export function applyTheme() {
  const root = document.documentElement;
  if (theme.value === 'auto') delete root.dataset.theme;
  else root.dataset.theme = theme.value;
}

/** Takes the next choice in turn. */
export function nextTheme() {
  theme.value = CHOICES[(CHOICES.indexOf(theme.value) + 1) % CHOICES.length];
  try {
    localStorage.setItem(KEY, theme.value);
  } catch {
    // It holds until the page is closed.
  }
  applyTheme();
}
