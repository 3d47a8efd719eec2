// What an agent has to say in every call, and whether it was said: greeting, recording notice,
// identity check, recap. Read from the agent's final segments by their words. Speech recognition
// writes no punctuation and numbers as words, people who type write both: either is understood.
// Pure.

/** @typedef {{segment: string, sentence: string, at_ms: number}} Tick where a point was said first */
/** @typedef {Record<string, Tick>} Ticks by the point's id */

const ASKED_FOR = [
  '(?:full |first |last |middle )?names?', 'surname', 'date of birth', 'birthday', '(?:date of )?birth', 'post ?codes?', 'zip(?: code)?', '(?:e ?mail )?address',
  '(?:account|customer|client|policy|member|membership|reference|booking|tracking|order|contract|patient|employee|payroll|case|claim|phone|mobile|card|invoice|licence|license|reservation)(?: or [a-z]+)? (?:number|code|id|reference|ref)',
  'booking code', 'registration', 'number plate', 'memorable (?:word|date|place)', 'security (?:word|code|answer|number)', 'telephone password', 'last (?:four|4|three|3)(?: digits)?',
].join('|');

/**
 * The points, in the order of a call. A pattern meets lower-case words with one space between and
 * no punctuation but apostrophes.
 */
export const POINTS = [
  {
    id: 'greeting',
    title: 'greeting',
    patterns: [
      /^(?:(?:yes|yeah|oh|um|uh|erm|ok|okay|right|ah) )*(?:hello|hi|hiya|hey)\b(?!(?: \w+)? (?:are you|can you hear))/,
      /\bhello\b(?! (?:are you|can you))|\bhi (?:there|this is|it's|i'm)\b/,
      /\bgood (?:morning|afternoon|evening)\b/,
      /\bthis is \p{L}+ (?:at|from)\b/u,
      /\b(?:welcome to|thanks? (?:you )?for (?:calling|phoning|ringing|contacting|getting in touch|your call))\b/,
      /\byou(?:'re| are|'ve| have) (?:now )?(?:through to|speaking (?:with|to)|reached|talking to)\b/,
      /\b(?:how|what) (?:can|may|could) (?:i|we) (?:help|do for|be of (?:help|service))\b/,
      /\bmy name(?:'s| is)\b/,
      // How people answer a line: "meridian skyways priya speaking", "claims desk, Jonas here."
      /^(?:[\p{L}\p{N}']+ ){1,7}(?:speaking\b|on the line$)/u,
      /^(?:[\p{L}\p{N}']+ ){1,5}(?:here|this is \p{L}+)(?:$| (?:how|what|who|where)\b)/u,
    ],
  },
  {
    id: 'recording',
    title: 'recording notice',
    patterns: [
      /\b(?:calls?|lines?|conversations?|chats?)\b(?: \w+){0,3} (?:is|are|be|being|get|gets) (?:all |always |also )?(?:being )?(?:recorded|monitored|taped)\b/,
      /\b(?:we|i'm|i am|we're|we are) (?:may |might |do |also |always |will )?(?:record|recording|monitor|monitoring) (?:and (?:record|monitor) )?(?:all |some |this |our |the |these |your )*(?:calls?|lines?|conversations?|chats?)\b/,
      /\b(?:on a|this is a) recorded (?:line|call)\b/,
      /\brecorded (?:and monitored )?for (?:our |your )?(?:training|quality|security|compliance|monitoring)\b/,
      /\b(?:training|quality|monitoring)(?: and| or) (?:training|quality|monitoring)(?: assurance)? purposes\b/,
    ],
  },
  {
    id: 'identity',
    title: 'identity',
    patterns: [
      new RegExp(`\\b(?:can|could|may|might|shall) (?:i|we|you) (?:please |just |quickly |also |then |first |kindly )*(?:take|have|get|grab|ask(?: for)?|confirm|check|verify|give(?: me)?|tell me|spell|read(?: me)?)(?: me| out)? (?:your|the|their|his|her) (?:\\w+ ){0,2}?(?:${ASKED_FOR})\\b`),
      new RegExp(`\\b(?:please|i(?:'ll|'d| will| would| just)*(?: just)? (?:need|want|like)(?: to (?:take|have|confirm|check|verify))?|(?:please|just|to|you) (?:give(?: me)?|tell me|confirm|verify))(?: me| with| please)* your (?:\\w+ ){0,2}?(?:${ASKED_FOR})\\b`),
      new RegExp(`\\b(?:what(?:'s| is| was)|and|have you got|do you have|got) (?:your|a) (?:\\w+ )?(?:${ASKED_FOR})\\b(?! (?:is|was|has|will))`),
      new RegExp(`^(?:(?:sure|right|ok|okay|of course|lovely|and|thanks|thank you) )*(?:your )?(?:${ASKED_FOR})(?:(?: and| or)(?: the| your)? (?:${ASKED_FOR}))*(?: on (?:the|your) account)?(?: please)?$`),
      /\b(?:first line of (?:your|the) address|mother's maiden name)\b/,
      /\b(?:first|second|third|fourth|last|1st|2nd|3rd|4th|\d+(?:st|nd|rd|th)?)(?: and (?:the )?\w+)? (?:letters?|characters?|digits?) (?:of|from) (?:your|the) (?:\w+ )?(?:password|passcode|pin|memorable|security)\b/,
      /\b(?:who (?:am i|do i have)(?: \w+)? (?:speaking|talking|on)|am i (?:speaking|talking) (?:to|with))\b/,
      /\b(?:take|get|put|run|walk|went|go) (?:you |us )?through (?:\w+ ){0,3}(?:security|identification|verification|data protection)\b/,
      /\b(?:a few|some|few|couple of|quick|our|the|your|my) (?:quick )?(?:security|identification|verification|data protection) (?:checks?|questions?)\b/,
      /\b(?:verify|check|confirm) (?:who (?:you are|i'm speaking|i am speaking)|that it's you|it's (?:really )?you|your (?:identity|details|id))\b/,
    ],
  },
  {
    id: 'recap',
    title: 'recap',
    patterns: [
      /\b(?:to|quick|quickly|just|me|let's|a) (?:quickly |just )?(?:recap|summari[sz]e|sum up|run through (?:that|it|this|everything|what))\b/,
      /\b(?:in summary|in short then|summing up)\b/,
      /\b(?:so|right|okay|ok|and|then|just) (?:just )?to (?:confirm|be clear|go over)(?: again)?(?: what|,? (?:i've|i have|we've|we have|i'll|we'll|you'll|that's))\b/,
      /\b(?:go over|go through|read back|repeat) (?:what (?:we|i)|that back|everything|it all|the details again|those details)\b/,
      /\bwhat we(?:'ve| have)? (?:agreed|done|arranged|discussed)\b/,
      /\b(?:so|as) (?:we've|we have|we) agreed\b/,
      /\bso (?:to sum|here's what|what happens (?:now|next) is|the next steps? (?:is|are))\b/,
    ],
  },
];

const SENTENCE_MAX_CHARS = 160;

/** Returns the words as the patterns meet them. @param {string} text */
function plain(text) {
  return text.toLowerCase().replaceAll(/[‘’ʼ`]/g, "'").replaceAll(/e-mail/g, 'email')
    .replaceAll(/[^\p{L}\p{N}' ]+/gu, ' ').replaceAll(/\s+/g, ' ').trim();
}

/**
 * Takes one more segment. What is ticked stays ticked, whatever is said or corrected later.
 * @param {Ticks} ticks @param {import('./call.js').Segment} segment @returns {Ticks}
 */
export function tick(ticks, segment) {
  if (!segment.final || segment.speaker !== 'agent') return ticks;
  const open = POINTS.filter((point) => !ticks[point.id]);
  if (open.length === 0) return ticks;
  // A notice may run over the full stop that a recogniser put into it: the whole is tried last.
  const sentences = [...segment.text.split(/(?<=[.!?…])\s+/), segment.text];
  const said = sentences.map(plain);
  let next = ticks;
  for (const point of open) {
    const at = said.findIndex((words) => point.patterns.some((pattern) => pattern.test(words)));
    if (at < 0) continue;
    next = { ...next, [point.id]: { segment: segment.id, sentence: shortened(sentences[at].trim()), at_ms: segment.start_ms } };
  }
  return next;
}

function shortened(text) {
  return text.length > SENTENCE_MAX_CHARS ? `${text.slice(0, SENTENCE_MAX_CHARS - 1).trimEnd()}…` : text;
}

/**
 * Returns the points with what ticked them.
 * @param {import('./call.js').Segment[]} segments
 * @returns {{id: string, title: string, tick: Tick|null}[]}
 */
export function checklist(segments) {
  return points(segments.reduce(tick, {}));
}

/** Returns all points, ticked or open. @param {Ticks} ticks @returns {{id: string, title: string, tick: Tick|null}[]} */
export function points(ticks) {
  return POINTS.map(({ id, title }) => ({ id, title, tick: ticks[id] ?? null }));
}
