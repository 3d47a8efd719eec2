// The template tag of every component: htm bound to preact. Values are only ever interpolated as
// text or attributes, so nothing that a caller says can become markup.

import { h } from 'preact';
import htm from 'htm';

export const html = htm.bind(h);
