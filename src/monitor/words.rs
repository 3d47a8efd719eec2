//! What the words of a text alone say: TF-IDF of word 1–2-grams and character 2–4-grams, then logistic
//! regression in which every class counts the same. A few thousand labels teach it what a small language
//! model learns by heart instead; `emotion` asks both.
//!
//! Counts are damped (1 + ln), weighted by rarity, and each of the two groups has length 1, to which what
//! was never seen counts too: of foreign talk little is left, and little is said. Character
//! n-grams stay within a word and see its borders. The regression is convex and is brought to its
//! minimum, so that what comes out depends on the rows alone: `½|w|² + C·Σ weight·loss`, by L-BFGS
//! (Nocedal and Wright, "Numerical Optimization", 2006, algorithm 7.5).

use std::collections::HashMap;
use std::collections::VecDeque;
use std::io;
use std::path::Path;

use half::f16;
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::engine::ops::softmax::softmax;
use crate::monitor::chain::Chain;

/// Texts that an n-gram must stand in.
const LEAST_TEXTS: u32 = 2;
/// What the loss counts against the size of the weights.
const C: f32 = 1.0;
/// The most steps of the minimiser.
const STEPS: usize = 100;
/// It ends when the gradient's length is this share of the first one's.
const SMALL_GRADIENT: f32 = 2e-3;
/// Steps it remembers.
const MEMORY: usize = 8;
/// Rows whose gradient is summed in one task.
const ROWS_AT_ONCE: usize = 4096;

/// A text as numbers: (feature, value).
type Sparse = Vec<(u32, f32)>;

/// A trained classifier.
#[derive(Debug)]
pub struct Words {
    vocabulary: Vocabulary,
    classes: usize,
    /// `[features + 1, classes]`; the last row is added whatever the text.
    weights: Vec<f32>,
    /// What class follows which, if that was learned.
    chain: Option<Chain>,
}

impl Words {
    /// Trains on texts and their classes, which are below `classes`.
    pub fn train(rows: &[(String, usize)], classes: usize) -> Words {
        let vocabulary = Vocabulary::of(rows.iter().map(|(text, _)| text.as_str()));
        let sparse: Vec<Sparse> = rows.par_iter().map(|(text, _)| vocabulary.read(text)).collect();
        let mut counts = vec![0_usize; classes];
        rows.iter().for_each(|(_, class)| counts[*class] += 1);
        let occurring = counts.iter().filter(|count| **count > 0).count();
        let weights: Vec<f32> =
            counts.iter().map(|count| C * rows.len() as f32 / (occurring * count).max(1) as f32).collect();
        let problem = Problem {
            rows: sparse.into_iter().zip(rows.iter().map(|(_, class)| *class)).collect(),
            weights,
            // A class without rows is never said.
            absent: counts.iter().map(|count| *count == 0).collect(),
            features: vocabulary.features.len(),
        };
        let weights = minimise((problem.features + 1) * classes, |weights| problem.gradient(weights));
        let mut words = Words { vocabulary, classes, weights, chain: None };
        let bias = problem.features * classes;
        for class in (0..classes).filter(|class| problem.absent[*class]) {
            words.weights[bias + class] = f32::NEG_INFINITY;
        }
        words
    }

    /// Lets it know what class follows which in some sequences of them.
    pub fn with_chain(self, sequences: &[Vec<usize>]) -> Words {
        Words { chain: Some(Chain::learn(sequences, self.classes)), ..self }
    }

    /// Returns the likeliest class of a text.
    pub fn classify(&self, text: &str) -> usize {
        let scores = self.scores(text);
        let best = (0..self.classes).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        best.unwrap_or(0)
    }

    /// Returns the logarithm of each class's probability, up to a constant.
    pub fn scores(&self, text: &str) -> Vec<f32> {
        scores(&self.weights, &self.vocabulary.read(text), self.classes)
    }

    /// Returns the scores of the last of some texts, where those before it say what may follow.
    pub fn scores_after(&self, texts: &[&str]) -> Vec<f32> {
        let Some((first, rest)) = texts.split_first() else { return vec![0.0; self.classes] };
        let mut scores = self.scores(first);
        for text in rest {
            let mut last = scores;
            softmax(&mut last);
            scores = self.scores(text);
            if let Some(chain) = &self.chain {
                scores.iter_mut().zip(chain.after(&last)).for_each(|(score, gain)| *score += gain);
            }
        }
        scores
    }

    /// Returns how many classes there are.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Writes it as safetensors: `grams` `[n]` u64, `rarity` `[n]` f32, `weights` `[n + 1, classes]` f16; and
    /// `chain` `[classes, classes]` f32 if there is one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut grams: Vec<_> = self.vocabulary.features.iter().collect();
        grams.sort_unstable_by_key(|(_, (feature, _))| *feature);
        let hashes: Vec<u8> = grams.iter().flat_map(|(gram, _)| gram.to_le_bytes()).collect();
        let rarity: Vec<u8> = grams.iter().flat_map(|(_, (_, rarity))| rarity.to_le_bytes()).collect();
        let weights: Vec<u8> = self.weights.iter().flat_map(|w| f16::from_f32(*w).to_le_bytes()).collect();
        let (n, view) = (grams.len(), |dtype, shape, bytes| TensorView::new(dtype, shape, bytes));
        let chain = self.chain.iter().flat_map(Chain::ratios);
        let chain: Vec<u8> = chain.flat_map(|ratio| ratio.to_le_bytes()).collect();
        let mut tensors = vec![
            ("grams", view(Dtype::U64, vec![n], &hashes)),
            ("rarity", view(Dtype::F32, vec![n], &rarity)),
            ("weights", view(Dtype::F16, vec![n + 1, self.classes], &weights)),
        ];
        if self.chain.is_some() {
            tensors.push(("chain", view(Dtype::F32, vec![self.classes, self.classes], &chain)));
        }
        let mut views = Vec::new();
        for (name, view) in tensors {
            views.push((name, view.map_err(io::Error::other)?));
        }
        std::fs::write(path, safetensors::serialize(views, None).map_err(io::Error::other)?)
    }

    /// Reads what [`Words::write`] wrote; `None` when there is no such file.
    ///
    /// # Errors
    /// When the file cannot be read or has another form.
    pub fn read(path: &Path) -> io::Result<Option<Words>> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let tensors = SafeTensors::deserialize(&bytes).map_err(io::Error::other)?;
        let of = |name: &str, dtype: Dtype, dimensions: usize| {
            let tensor = tensors.tensor(name).map_err(io::Error::other)?;
            let is_right = tensor.dtype() == dtype && tensor.shape().len() == dimensions;
            if is_right { Ok(tensor) } else { Err(io::Error::other(format!("{name} has another form"))) }
        };
        let (grams, rarity) = (of("grams", Dtype::U64, 1)?, of("rarity", Dtype::F32, 1)?);
        let weights = of("weights", Dtype::F16, 2)?;
        let (n, classes) = (grams.shape()[0], weights.shape()[1]);
        if rarity.shape() != [n] || weights.shape() != [n + 1, classes] {
            return Err(io::Error::other("grams, rarity and weights are of different lengths"));
        }
        let hashes = grams.data().chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("eight")));
        let rarity = rarity.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four")));
        let features = hashes.zip((0..).zip(rarity)).collect();
        let halves = weights.data().chunks_exact(2);
        let weights = halves.map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
        let chain = match tensors.names().contains(&"chain") {
            true => {
                let ratios = of("chain", Dtype::F32, 2)?.data().chunks_exact(4);
                let ratios = ratios.map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect();
                let chain = Chain::of(ratios, classes);
                Some(chain.ok_or_else(|| io::Error::other("chain has another number of classes"))?)
            }
            false => None,
        };
        Ok(Some(Words { vocabulary: Vocabulary::with(features), classes, weights, chain }))
    }
}

/// The n-grams that count, and their rarity.
#[derive(Debug, Default)]
struct Vocabulary {
    features: HashMap<u64, (u32, f32)>,
    /// The rarity of an n-gram that was never seen.
    unseen: f32,
}

impl Vocabulary {
    fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Vocabulary {
        let mut having: HashMap<u64, u32> = HashMap::new();
        let mut all = 0;
        for text in texts {
            for group in grams(text) {
                group.keys().for_each(|gram| *having.entry(*gram).or_default() += 1);
            }
            all += 1;
        }
        let mut kept: Vec<(u64, u32)> = having.into_iter().filter(|(_, n)| *n >= LEAST_TEXTS).collect();
        // The order of a hash map is another one each time, and with it the last bits of every sum.
        kept.sort_unstable();
        let rarity = |n: u32| ((1.0 + all as f32) / (1.0 + n as f32)).ln() + 1.0;
        let numbered = kept.into_iter().zip(0..);
        Vocabulary::with(numbered.map(|((gram, n), i)| (gram, (i, rarity(n)))).collect())
    }

    fn with(features: HashMap<u64, (u32, f32)>) -> Vocabulary {
        let unseen = features.values().map(|(_, rarity)| *rarity).fold(0.0, f32::max);
        Vocabulary { features, unseen }
    }

    fn read(&self, text: &str) -> Sparse {
        let mut sparse = Vec::new();
        for group in grams(text) {
            let start = sparse.len();
            let mut unseen: Vec<f32> = Vec::new();
            for (gram, count) in group {
                let damped = 1.0 + (count as f32).ln();
                match self.features.get(&gram) {
                    Some((feature, rarity)) => sparse.push((*feature, damped * rarity)),
                    None => unseen.push((damped * self.unseen).powi(2)),
                }
            }
            let values = &mut sparse[start..];
            values.sort_unstable_by_key(|(feature, _)| *feature);
            let seen = values.iter().map(|(_, value)| value * value).sum::<f32>();
            // In one order always, whatever that of the map was, for the same last bits.
            unseen.sort_unstable_by(f32::total_cmp);
            let length = (seen + unseen.iter().sum::<f32>()).sqrt();
            values.iter_mut().for_each(|(_, value)| *value /= length);
        }
        sparse
    }
}

/// Counts the n-grams of words, and those of characters, each as a hash.
fn grams(text: &str) -> [HashMap<u64, u32>; 2] {
    let mut groups = [HashMap::new(), HashMap::new()];
    let mut count = |group: usize, gram: &[&str]| {
        *groups[group].entry(hash(group as u8, gram)).or_default() += 1;
    };
    let lower = text.to_lowercase();
    let is_inner = |c: char| c.is_alphanumeric() || c == '\'';
    let words: Vec<&str> = lower.split(|c: char| !is_inner(c)).filter(|word| !word.is_empty()).collect();
    for length in 1..=2 {
        words.windows(length).for_each(|gram| count(0, gram));
    }
    for word in lower.split_whitespace() {
        let word = format!(" {word} ");
        let ends: Vec<usize> = word.char_indices().map(|(at, _)| at).chain([word.len()]).collect();
        for length in 2..=4 {
            ends.windows(length + 1).for_each(|at| count(1, &[&word[at[0]..at[length]]]));
        }
    }
    groups
}

/// Returns the FNV-1a hash of a group and its parts, which is the same on every machine and in every file.
fn hash(group: u8, parts: &[&str]) -> u64 {
    let separated = parts.iter().flat_map(|part| part.bytes().chain([0]));
    [group].into_iter().chain(separated).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// What is minimised.
struct Problem {
    rows: Vec<(Sparse, usize)>,
    /// What a row of each class counts.
    weights: Vec<f32>,
    absent: Vec<bool>,
    features: usize,
}

impl Problem {
    /// Returns the value at some weights, and the gradient.
    fn gradient(&self, at: &[f32]) -> (f64, Vec<f32>) {
        let classes = self.weights.len();
        let tasks = self.rows.par_chunks(ROWS_AT_ONCE).map(|rows| {
            let mut gradient = vec![0.0_f32; at.len()];
            let mut value = 0.0_f64;
            for (sparse, class) in rows {
                let mut scores = scores(at, sparse, classes);
                for (score, absent) in scores.iter_mut().zip(&self.absent) {
                    *score = if *absent { f32::NEG_INFINITY } else { *score };
                }
                let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = scores.iter().map(|score| (score - highest).exp()).sum();
                value += f64::from(self.weights[*class] * (sum.ln() + highest - scores[*class]));
                for (c, score) in scores.iter_mut().enumerate() {
                    let probability = (*score - highest).exp() / sum;
                    *score = self.weights[*class] * (probability - f32::from(u8::from(c == *class)));
                }
                let bias = (self.features as u32, 1.0);
                for (feature, x) in sparse.iter().copied().chain([bias]) {
                    let row = &mut gradient[feature as usize * classes..][..classes];
                    row.iter_mut().zip(&scores).for_each(|(g, error)| *g += error * x);
                }
            }
            (value, gradient)
        });
        // Summed in their order, for the same bits on any number of threads.
        let tasks: Vec<(f64, Vec<f32>)> = tasks.collect();
        let mut gradient = vec![0.0_f32; at.len()];
        let mut value = 0.0;
        for (of_task, slopes) in &tasks {
            value += of_task;
            gradient.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope);
        }
        let sized = self.features * classes;
        for (slope, weight) in gradient[..sized].iter_mut().zip(at) {
            *slope += weight;
            value += 0.5 * f64::from(weight * weight);
        }
        (value, gradient)
    }
}

fn scores(weights: &[f32], sparse: &[(u32, f32)], classes: usize) -> Vec<f32> {
    let mut scores = weights[weights.len() - classes..].to_vec();
    for (feature, x) in sparse {
        let row = &weights[*feature as usize * classes..][..classes];
        scores.iter_mut().zip(row).for_each(|(score, weight)| *score += weight * x);
    }
    scores
}

/// Returns where a smooth convex function of `size` numbers is least.
fn minimise(size: usize, function: impl Fn(&[f32]) -> (f64, Vec<f32>)) -> Vec<f32> {
    let mut at = vec![0.0_f32; size];
    let (mut value, mut gradient) = function(&at);
    let enough = SMALL_GRADIENT * dot(&gradient, &gradient).sqrt();
    // Step, change of the gradient, and one over their product.
    let mut steps: VecDeque<(Vec<f32>, Vec<f32>, f32)> = VecDeque::new();
    for _ in 0..STEPS {
        if dot(&gradient, &gradient).sqrt() <= enough {
            break;
        }
        let mut direction = descent(&gradient, &steps);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 {
            steps.clear();
            direction = gradient.iter().map(|g| -g).collect();
            slope = -dot(&gradient, &gradient);
        }
        let mut length = if steps.is_empty() { 1.0 / (-slope).sqrt() } else { 1.0 };
        let found = loop {
            let next: Vec<f32> = at.iter().zip(&direction).map(|(x, d)| x + length * d).collect();
            let (next_value, next_gradient) = function(&next);
            // Armijo's rule.
            if next_value <= value + 1e-4 * f64::from(length * slope) {
                break Some((next, next_value, next_gradient));
            }
            length *= 0.5;
            if length < 1e-6 {
                break None;
            }
        };
        // Nothing lower is left that these numbers can tell apart.
        let Some((next, next_value, next_gradient)) = found else { break };
        let step: Vec<f32> = next.iter().zip(&at).map(|(new, old)| new - old).collect();
        let change: Vec<f32> = next_gradient.iter().zip(&gradient).map(|(new, old)| new - old).collect();
        let product = dot(&step, &change);
        if product > 0.0 {
            steps.push_back((step, change, 1.0 / product));
            if steps.len() > MEMORY {
                steps.pop_front();
            }
        }
        (at, value, gradient) = (next, next_value, next_gradient);
    }
    at
}

/// Returns where to go: the gradient, turned by what the last steps tell of the curvature.
fn descent(gradient: &[f32], steps: &VecDeque<(Vec<f32>, Vec<f32>, f32)>) -> Vec<f32> {
    let mut direction: Vec<f32> = gradient.iter().map(|g| -g).collect();
    let mut shares = Vec::with_capacity(steps.len());
    for (step, change, inverse) in steps.iter().rev() {
        let share = inverse * dot(step, &direction);
        direction.iter_mut().zip(change).for_each(|(d, c)| *d -= share * c);
        shares.push(share);
    }
    if let Some((_, change, inverse)) = steps.back() {
        let scale = 1.0 / (inverse * dot(change, change));
        direction.iter_mut().for_each(|d| *d *= scale);
    }
    for ((step, change, inverse), share) in steps.iter().zip(shares.iter().rev()) {
        let over = share - inverse * dot(change, &direction);
        direction.iter_mut().zip(step).for_each(|(d, s)| *d += over * s);
    }
    direction
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let row = |text: &str, class| (text.to_owned(), class);
        let rows =
            [row("late again", 0), row("so late", 0), row("thank you", 2), row("oh thank you so much", 2)];
        let words = Words::train(&rows, 3).with_chain(&[vec![0, 0, 2], vec![0, 2]]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.safetensors");
        assert!(Words::read(&path).unwrap().is_none());
        words.write(&path).unwrap();
        let read = Words::read(&path).unwrap().unwrap();
        assert_eq!(read.classes(), 3);
        for text in ["late", "thank you", "something else"] {
            for (a, b) in words.scores(text).iter().zip(read.scores(text)) {
                assert!(*a == b || (a - b).abs() < 2e-3 * a.abs().max(1.0), "{text}: {a} and {b}");
            }
        }
        let (before, after) = (["so late"], ["so late", "thank you"]);
        assert_eq!(words.scores_after(&before), words.scores("so late"));
        let gains = read.scores_after(&after).into_iter().zip(read.scores("thank you"));
        assert!(
            gains.into_iter().any(|(after, alone)| (after - alone).abs() > 0.01),
            "what came before counts"
        );
        std::fs::write(&path, b"nonsense").unwrap();
        assert!(Words::read(&path).is_err());
    }

    #[test]
    fn the_minimum_of_a_bowl_is_found() {
        let least = [3.0_f32, -2.0, 0.5];
        let steep = [1.0_f32, 10.0, 100.0];
        let bowl = |at: &[f32]| {
            let off: Vec<f32> = at.iter().zip(least).map(|(x, least)| x - least).collect();
            let value = off.iter().zip(steep).map(|(d, k)| 0.5 * f64::from(k * d * d)).sum();
            (value, off.iter().zip(steep).map(|(d, k)| k * d).collect())
        };
        for (found, expected) in minimise(3, bowl).iter().zip(least) {
            assert!((found - expected).abs() < 0.02, "{found}, not {expected}");
        }
    }

    #[test]
    fn the_gradient_is_that_of_the_value() {
        let rows = vec![(vec![(0, 1.0), (1, 0.5)], 0), (vec![(1, 1.0)], 2), (vec![(0, -1.0)], 2)];
        let problem =
            Problem { rows, weights: vec![1.0, 1.0, 2.0], absent: vec![false, true, false], features: 2 };
        let at = [0.3_f32, 0.0, -0.2, 0.5, 0.0, 0.1, 0.2, 0.0, -0.1];
        let (_, gradient) = problem.gradient(&at);
        for i in 0..at.len() {
            let moved = |by: f32| {
                let mut at = at;
                at[i] += by;
                problem.gradient(&at).0
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((slope - f64::from(gradient[i])).abs() < 1e-3, "{i}: {slope} {}", gradient[i]);
        }
    }

    #[test]
    fn texts_like_those_it_saw_get_their_class_however_rare_it_is() {
        let mut rows = Vec::new();
        for thing in ["bill", "plan", "phone", "order"] {
            for _ in 0..5 {
                rows.push((format!("where is my {thing}"), 0));
                rows.push((format!("what about the {thing}"), 0));
            }
            rows.push((format!("this {thing} is a disgrace, I am furious"), 2));
        }
        let linear = Words::train(&rows, 3);
        assert_eq!(linear.classify("Where is the parcel?"), 0);
        assert_eq!(linear.classify("I am FURIOUS about it"), 2);
        assert_eq!(linear.classify("furiously disgraceful"), 2, "pieces of words count");
        let sure = |text: &str| {
            let scores = linear.scores(text);
            scores[2] - scores[0]
        };
        assert!(sure("furious") > sure("furious xylophones quack"), "unknown words leave less to be said");
        assert_ne!(linear.classify(""), 1, "a class without rows is never said");
    }
}
