//! Speech to text: whisper.cpp on threads of its own, one shared model and a state for each thread.
//!
//! Requests of all calls wait in one queue. Finals are served first, in the order they came; a partial
//! is served when no final waits, and a newer one of the same turn replaces it. The encoder sees all of its
//! 30 seconds only for a final that nobody waits behind: less is several times faster. Overflow rule: partials
//! are shed first; a final is refused only when a quarter of an hour of speech waits, or two minutes of its call.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::oneshot;
use whisper_rs::FullParams;
use whisper_rs::SamplingStrategy;
use whisper_rs::WhisperContext;
use whisper_rs::WhisperContextParameters;
use whisper_rs::WhisperError;
use whisper_rs::WhisperState;

use crate::event::Word;
use crate::speech::ggml;
use crate::speech::ggml::ModelFileError;
use crate::speech::guard;
use crate::speech::resample::RATE_HZ;

/// How much speech may wait, in seconds: 29 MB of samples.
const WAITING_MAX_S: usize = 900;
/// How much of it one call may have waiting, in seconds: a sender faster than speech starves nobody else.
const WAITING_OF_ONE_MAX_S: usize = 120;
/// How many partials may wait. Overflow rule: the oldest is shed.
const PARTIALS_MAX: usize = 64;
/// What Whisper needs at least, in samples: shorter turns are filled up with silence.
const SAMPLES_MIN: usize = RATE_HZ as usize * 11 / 10;
/// Positions of the encoder for a second of audio.
const POSITIONS_A_SECOND: usize = 50;
/// How much more than its turn the encoder sees when it is to be fast, in seconds, and at least in all.
const FAST_ROOM_S: usize = 2;
const FAST_MIN_S: usize = 8;

/// Says why there is no recognition.
#[derive(Debug, thiserror::Error)]
pub enum SpeechError {
    /// The model's file is not usable.
    #[error(transparent)]
    File(#[from] ModelFileError),
    /// whisper.cpp cannot load or run it.
    #[error("whisper.cpp: {0}")]
    Whisper(#[from] WhisperError),
    /// No thread can be started.
    #[error("cannot start a thread for speech")]
    Thread(#[from] std::io::Error),
}

/// What was recognised of a turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Recognised {
    /// The words, with times in the turn's call; none when nothing was said or it was made up.
    pub words: Vec<Word>,
    /// How long it took, without waiting.
    pub took: Duration,
}

impl Recognised {
    /// Returns the words as a text.
    pub fn text(&self) -> String {
        self.words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ")
    }
}

/// A turn to recognise.
#[derive(Debug)]
pub struct Request {
    /// Names the call and the turn in it: a newer partial of a turn replaces an older one.
    pub turn: (u64, u64),
    /// Its samples at 16 kHz.
    pub samples: Vec<i16>,
    /// Where it begins in its call, in milliseconds.
    pub start_ms: u64,
    /// BCP 47 tag of its language.
    pub language: String,
    /// Whether the turn is over.
    pub is_final: bool,
}

/// Resolves with what was recognised; fails when the request was shed or the recogniser failed.
pub type Recognition = oneshot::Receiver<Recognised>;

/// A loaded model with its threads. Clones share it; they end when the last one is gone.
#[derive(Debug, Clone)]
pub struct Recogniser {
    is_multilingual: bool,
    shared: Arc<Shared>,
    _alive: Arc<Alive>,
}

/// What was counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Finals that wait.
    pub waiting: usize,
    /// Seconds of speech that wait.
    pub waiting_s: f32,
    /// For how long the oldest final has waited.
    pub oldest: Duration,
    /// Partials that were shed.
    pub shed: u64,
    /// Finals that were refused.
    pub refused: u64,
    /// Finals that were recognised.
    pub done: u64,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    finals: VecDeque<Job>,
    partials: VecDeque<Job>,
    samples: usize,
    shed: u64,
    refused: u64,
    done: u64,
    is_over: bool,
}

#[derive(Debug)]
struct Job {
    request: Request,
    came: Instant,
    answer: oneshot::Sender<Recognised>,
}

impl Job {
    fn samples(&self) -> usize {
        self.request.samples.len()
    }

    /// Returns whether both are turns of one call.
    fn is_of(&self, other: &Job) -> bool {
        self.request.turn.0 == other.request.turn.0
    }
}

/// Tells the threads to end when the last handle is gone.
#[derive(Debug)]
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.queue().is_over = true;
        self.0.work.notify_all();
    }
}

impl Recogniser {
    /// Loads a model and starts `threads` threads, each with a state of its own.
    ///
    /// # Errors
    /// When the file is no Whisper model with weights, or whisper.cpp cannot use it.
    pub fn load(path: &Path, threads: usize) -> Result<Recogniser, SpeechError> {
        let header = ggml::inspect(path)?;
        // Without these whisper.cpp writes to stderr.
        whisper_rs::install_logging_hooks();
        let mut parameters = WhisperContextParameters::default();
        parameters.use_gpu(false);
        let context = WhisperContext::new_with_params(path, parameters)?;
        let shared = Arc::new(Shared { queue: Mutex::default(), work: Condvar::new() });
        let alive = Arc::new(Alive(Arc::clone(&shared)));
        for number in 0..threads.max(1) {
            let worker = Worker {
                state: context.create_state()?,
                shared: Arc::clone(&shared),
                end: context.token_eot(),
                is_multilingual: header.is_multilingual(),
                positions: context.model_n_audio_ctx().max(1) as usize,
                parameters: HashMap::new(),
            };
            let thread = std::thread::Builder::new().name(format!("speech-{number}"));
            thread.spawn(move || worker.run())?;
        }
        Ok(Recogniser { is_multilingual: header.is_multilingual(), shared, _alive: alive })
    }

    /// Returns the languages that the model speaks, as BCP 47 tags.
    pub fn languages(&self) -> Vec<&'static str> {
        if !self.is_multilingual {
            return vec!["en"];
        }
        (0..=whisper_rs::get_lang_max_id()).filter_map(whisper_rs::get_lang_str).collect()
    }

    /// Returns whether the model speaks the language of a BCP 47 tag.
    pub fn speaks(&self, language: &str) -> bool {
        self.languages().contains(&primary(language).as_str())
    }

    /// Asks for a turn's words.
    pub fn ask(&self, request: Request) -> Recognition {
        let (answer, recognition) = oneshot::channel();
        let mut queue = self.shared.queue();
        let length = request.samples.len();
        let job = Job { request, came: Instant::now(), answer };
        if job.request.is_final {
            // Nobody needs the partial of a turn that is over.
            queue.drop_partial(job.request.turn);
            let of_one: usize = queue.finals.iter().filter(|other| other.is_of(&job)).map(Job::samples).sum();
            let second = RATE_HZ as usize;
            if queue.samples + length > WAITING_MAX_S * second
                || of_one + length > WAITING_OF_ONE_MAX_S * second
            {
                queue.refused += 1;
                return recognition;
            }
            queue.samples += length;
            queue.finals.push_back(job);
        } else {
            queue.drop_partial(job.request.turn);
            if !queue.finals.is_empty() {
                queue.shed += 1;
                return recognition;
            }
            if queue.partials.len() == PARTIALS_MAX {
                queue.partials.pop_front();
                queue.shed += 1;
            }
            queue.partials.push_back(job);
        }
        drop(queue);
        self.shared.work.notify_one();
        recognition
    }

    /// Returns what waits and what was done.
    pub fn load_now(&self) -> Load {
        let queue = self.shared.queue();
        Load {
            waiting: queue.finals.len(),
            waiting_s: queue.samples as f32 / RATE_HZ as f32,
            oldest: queue.finals.front().map_or(Duration::ZERO, |job| job.came.elapsed()),
            shed: queue.shed,
            refused: queue.refused,
            done: queue.done,
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Every change is one push or pop: a panic elsewhere leaves the queue whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the next job, and whether it has time; none when the recogniser is gone.
    fn next(&self) -> Option<(Job, bool)> {
        let mut queue = self.queue();
        loop {
            if queue.is_over {
                return None;
            }
            if let Some(job) = queue.finals.pop_front() {
                queue.samples -= job.request.samples.len();
                queue.shed += queue.partials.len() as u64 * u64::from(!queue.finals.is_empty());
                if !queue.finals.is_empty() {
                    queue.partials.clear();
                }
                return Some((job, queue.finals.is_empty()));
            }
            if let Some(job) = queue.partials.pop_front() {
                return Some((job, false));
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Queue {
    fn drop_partial(&mut self, turn: (u64, u64)) {
        let before = self.partials.len();
        self.partials.retain(|job| job.request.turn != turn && !job.answer.is_closed());
        self.shed += (before - self.partials.len()) as u64;
    }
}

/// One thread.
struct Worker {
    state: WhisperState,
    shared: Arc<Shared>,
    /// Tokens from this one on are no text.
    end: i32,
    is_multilingual: bool,
    /// Positions of the encoder for 30 seconds.
    positions: usize,
    /// By language: a parameter set holds its language for ever, so it is made once.
    parameters: HashMap<String, FullParams<'static, 'static>>,
}

impl Worker {
    fn run(mut self) {
        while let Some((job, has_time)) = self.shared.next() {
            if job.answer.is_closed() {
                continue;
            }
            let started = Instant::now();
            match self.recognise(&job.request, has_time) {
                Ok(words) => {
                    if job.request.is_final {
                        self.shared.queue().done += 1;
                    }
                    // The call may be over.
                    let _ = job.answer.send(Recognised { words, took: started.elapsed() });
                }
                Err(error) => tracing::error!(%error, "a turn was not recognised"),
            }
        }
    }

    fn recognise(&mut self, request: &Request, has_time: bool) -> Result<Vec<Word>, WhisperError> {
        let mut samples: Vec<f32> = request.samples.iter().map(|&s| f32::from(s) / 32_768.0).collect();
        let seconds = samples.len().div_ceil(RATE_HZ as usize);
        samples.resize(samples.len().max(SAMPLES_MIN), 0.0);
        let mut parameters = self.parameters(&request.language);
        if !has_time {
            let seen = (seconds + FAST_ROOM_S).max(FAST_MIN_S) * POSITIONS_A_SECOND;
            parameters.set_audio_ctx(seen.min(self.positions) as i32);
        }
        if !request.is_final {
            parameters.set_temperature_inc(0.0);
        }
        self.state.full(parameters, &samples)?;
        Ok(self.words(request))
    }

    fn parameters(&mut self, language: &str) -> FullParams<'static, 'static> {
        let code = primary(language);
        let is_known = self.is_multilingual && whisper_rs::get_lang_id(&code).is_some();
        let code = if is_known { code } else { "en".to_owned() };
        if let Some(known) = self.parameters.get(&code) {
            return known.clone();
        }
        let mut made = FullParams::new(SamplingStrategy::Greedy { best_of: 1 });
        made.set_n_threads(1);
        made.set_language(Some(Box::leak(code.clone().into_boxed_str())));
        made.set_no_context(true);
        made.set_token_timestamps(true);
        made.set_suppress_blank(true);
        made.set_suppress_nst(true);
        made.set_print_special(false);
        made.set_print_progress(false);
        made.set_print_realtime(false);
        made.set_print_timestamps(false);
        self.parameters.insert(code, made.clone());
        made
    }

    /// Returns the words of what was just recognised, without what was made up.
    fn words(&self, request: &Request) -> Vec<Word> {
        let length_ms = request.samples.len() as u64 * 1_000 / u64::from(RATE_HZ);
        let mut words: Vec<Word> = Vec::new();
        for segment in self.state.as_iter() {
            let tokens = (0..segment.n_tokens()).filter_map(|at| segment.get_token(at));
            let (mut bytes, mut sum, mut count) = (Vec::new(), 0.0f32, 0u32);
            for token in tokens {
                let data = token.token_data();
                let text = token.to_bytes().unwrap_or_default();
                if data.id >= self.end || text.is_empty() {
                    continue;
                }
                sum += data.plog;
                count += 1;
                bytes.push((text.to_vec(), data.t0, data.t1, data.p));
            }
            if count == 0 || guard::is_made_up(segment.no_speech_probability(), sum / count as f32) {
                continue;
            }
            words.extend(joined(&bytes, request.start_ms, length_ms));
        }
        guard::cut_repeats(&mut words);
        words
    }
}

/// Returns the language of a BCP 47 tag, without region and script.
fn primary(tag: &str) -> String {
    tag.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase()
}

/// A piece of a word: bytes, start and end in hundredths of a second, probability.
type Token = (Vec<u8>, i64, i64, f32);

/// Joins tokens to words.
fn joined(tokens: &[Token], start_ms: u64, length_ms: u64) -> Vec<Word> {
    let place = |hundredths: i64| start_ms + (hundredths.max(0) as u64 * 10).min(length_ms);
    let mut groups: Vec<Vec<&Token>> = Vec::new();
    for token in tokens {
        match groups.last_mut() {
            Some(group) if !token.0.starts_with(b" ") => group.push(token),
            _ => groups.push(vec![token]),
        }
    }
    let words = groups.into_iter().filter_map(|group| {
        let bytes: Vec<u8> = group.iter().flat_map(|token| token.0.iter().copied()).collect();
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        let (first, last) = (group.first()?, group.last()?);
        let (from, to) = (place(first.1), place(last.2));
        let confidence = group.iter().map(|token| token.3).sum::<f32>() / group.len() as f32;
        let confidence = Some(confidence.clamp(0.0, 1.0));
        let word = Word { text, start_ms: from, end_ms: to.max(from), confidence };
        (!word.text.is_empty()).then_some(word)
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_become_words_with_times_of_the_call() {
        let token = |text: &str, from: i64, to: i64, p: f32| (text.as_bytes().to_vec(), from, to, p);
        let tokens = [
            token(" Good", 0, 20, 0.9),
            token(" morn", 25, 40, 0.8),
            token("ing", 40, 60, 0.6),
            token(",", 60, 900, 1.0),
        ];
        let words = joined(&tokens, 5_000, 1_000);
        let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(texts, ["Good", "morning,"]);
        assert_eq!((words[1].start_ms, words[1].end_ms), (5_250, 6_000), "cut at the turn's end");
        assert!((words[1].confidence.unwrap() - 0.8).abs() < 1e-6);
    }

    #[test]
    fn a_letter_cut_over_two_tokens_is_whole() {
        let tokens = [(vec![b' ', 0xC3], 0, 1, 1.0), (vec![0xA9], 1, 2, 1.0)];
        assert_eq!(joined(&tokens, 0, 1_000)[0].text, "é");
    }

    fn job(turn: u64, is_final: bool) -> Request {
        Request {
            turn: (1, turn),
            samples: vec![0; 16_000],
            start_ms: 0,
            language: "en".to_owned(),
            is_final,
        }
    }

    /// A recogniser whose threads never work: what waits can be looked at.
    fn idle() -> Recogniser {
        let shared = Arc::new(Shared { queue: Mutex::default(), work: Condvar::new() });
        Recogniser { is_multilingual: false, shared: Arc::clone(&shared), _alive: Arc::new(Alive(shared)) }
    }

    #[test]
    fn finals_come_first_and_partials_are_replaced_then_shed() {
        let recogniser = idle();
        let mut old = recogniser.ask(job(1, false));
        let _new = recogniser.ask(job(1, false));
        assert!(old.try_recv().is_err() && recogniser.load_now().shed == 1, "the newer one replaced it");
        let _final = recogniser.ask(job(2, true));
        let _shed = recogniser.ask(job(3, false));
        assert_eq!(recogniser.load_now().shed, 2, "no partial while a final waits");
        let (first, has_time) = recogniser.shared.next().unwrap();
        assert!(first.request.is_final && first.request.turn == (1, 2) && has_time);
        let (second, has_time) = recogniser.shared.next().unwrap();
        assert!(!second.request.is_final && !has_time);
    }

    #[test]
    fn a_final_is_refused_only_when_too_much_waits() {
        let check = |most: usize, turn: fn(u64) -> (u64, u64)| {
            let recogniser = idle();
            let ask = |n| recogniser.ask(Request { turn: turn(n), ..job(n, true) });
            let asked: Vec<Recognition> = (0..=most as u64).map(ask).collect();
            let load = recogniser.load_now();
            assert_eq!((load.waiting, load.refused), (most, 1));
            drop(asked);
        };
        check(WAITING_MAX_S, |call| (call, 1));
        check(WAITING_OF_ONE_MAX_S, |turn| (1, turn));
    }
}
