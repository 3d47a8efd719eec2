// What a screen reader says: the two live regions of the shell. Polite for cards and drafts,
// assertive for whispers and alerts.

/** @param {'polite'|'assertive'} region @param {string} text */
function speak(region, text) {
  const element = document.getElementById(region);
  if (!element) return;
  // A new node is announced even when the words are the same as last time.
  const line = document.createElement('p');
  line.textContent = text;
  element.replaceChildren(line);
}

/** Says it when the listener is free. @param {string} text */
export const say = (text) => speak('polite', text);

/** Says it at once. @param {string} text */
export const interrupt = (text) => speak('assertive', text);
