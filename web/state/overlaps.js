// Who spoke into whose sentence, read from the times of the final segments. Pure.

/** A shorter overlap is how people hand over. */
const OVERLAP_LEAST_MS = 300;

/**
 * Returns how many times the agent cut off each customer's turn: began before it had ended, and
 * spoke on beside it.
 * @param {import('./call.js').Segment[]} segments in the order of their start @returns {Record<string, number>} by segment
 */
export function cutOffs(segments) {
  /** @type {Record<string, number>} */
  const counts = {};
  segments.forEach((turn, index) => {
    if (turn.speaker !== 'customer' || !turn.final) return;
    for (const other of segments.slice(index + 1)) {
      if (other.start_ms >= turn.end_ms) break;
      const overlapMs = Math.min(turn.end_ms, other.end_ms) - other.start_ms;
      if (other.speaker !== 'agent' || !other.final || overlapMs < OVERLAP_LEAST_MS) continue;
      counts[turn.id] = (counts[turn.id] ?? 0) + 1;
    }
  });
  return counts;
}
