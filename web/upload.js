// Uploading files with progress, and following the import that they become.

import { ApiError, errorOf } from './api.js';

/**
 * Sends files as multipart.
 * @param {string} path @param {File[]} files @param {(share: number) => void} onProgress from 0 to 1
 * @returns {Promise<any>} the server's answer
 */
export function upload(path, files, onProgress) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    for (const file of files) form.append('files', file, file.name);
    // fetch() cannot tell how much of a body has left.
    const request = new XMLHttpRequest();
    request.open('POST', path);
    request.setRequestHeader('accept', 'application/json');
    request.upload.onprogress = (event) => { if (event.lengthComputable) onProgress(event.loaded / event.total); };
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(errorOf(request.status, request.responseText, request.getResponseHeader('x-request-id')));
    };
    request.onerror = () => reject(new ApiError(0, 'offline', 'The upload was cut off: the server does not answer, or refused the size.', null));
    request.send(form);
  });
}

/**
 * Follows server-sent events until the import is over.
 * @param {string} path @param {(state: any) => void} onState @param {(message: string) => void} onLost
 * @returns {() => void} stops following
 */
export function follow(path, onState, onLost) {
  const source = new EventSource(path);
  const take = (event) => {
    const state = JSON.parse(event.data);
    onState(state);
    if (isOver(state)) source.close();
  };
  source.addEventListener('progress', take);
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) onLost('The progress of this import can no longer be followed. Reload to see how it ended.');
  };
  return () => source.close();
}

/** Returns whether nothing more will happen. @param {{state: string}} state */
export const isOver = (state) => state.state === 'active' || state.state === 'failed';
