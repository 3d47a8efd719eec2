//! What the words of a text alone say, by their n-grams and logistic regression. A few thousand labels teach
//! it what a small language model learns by heart instead; `emotion` asks both.
//!
//! People write in films and forums unlike how they speak to a hotline, and labels were given in other ways:
//! one regression for each kind of talk, and one that tells the kinds apart and says how much each counts
//! (Jacobs et al., "Adaptive mixtures of local experts", 1991, each part trained by itself).

pub mod grams;
pub mod regression;

use std::io;
use std::path::Path;

use half::f16;
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::engine::ops::softmax::softmax;
use crate::monitor::chain::Chain;
use crate::monitor::words::grams::Sparse;
use crate::monitor::words::grams::Vocabulary;
use crate::monitor::words::regression::Regression;

/// Texts that an n-gram must stand in …
const LEAST_TEXTS: u32 = 2;
/// … and where several kinds of talk share the vocabulary.
const LEAST_TEXTS_OF_KINDS: u32 = 3;

/// A trained classifier.
#[derive(Debug)]
pub struct Words {
    vocabulary: Vocabulary,
    /// One for each kind of talk.
    kinds: Vec<Regression>,
    /// Tells the kinds apart, where there are several.
    gate: Option<Regression>,
    /// What class follows which, if that was learned.
    chain: Option<Chain>,
}

impl Words {
    /// Trains on texts of one kind and their classes, which are below `classes`.
    pub fn train(rows: &[(String, usize)], classes: usize) -> Words {
        Words::train_kinds(&[rows], classes)
    }

    /// Trains on texts of several kinds of talk and their classes, which are below `classes`.
    pub fn train_kinds(kinds: &[&[(String, usize)]], classes: usize) -> Words {
        let least = if kinds.len() > 1 { LEAST_TEXTS_OF_KINDS } else { LEAST_TEXTS };
        let texts = kinds.iter().flat_map(|rows| *rows).map(|(text, _)| text.as_str());
        let vocabulary = Vocabulary::of(texts, least);
        let features = vocabulary.features.len();
        let read = |rows: &&[(String, usize)]| -> Vec<Sparse> {
            rows.par_iter().map(|(text, _)| vocabulary.read(text)).collect()
        };
        let sparse: Vec<Vec<Sparse>> = kinds.iter().map(read).collect();
        let of_kind = |(sparse, rows): (&Vec<Sparse>, &&[(String, usize)])| {
            let rows = sparse.iter().zip(rows.iter().map(|(_, class)| *class));
            Regression::train(rows.collect(), features, classes)
        };
        let trained = sparse.iter().zip(kinds).map(of_kind).collect();
        let gate = (kinds.len() > 1).then(|| {
            let rows = sparse.iter().enumerate();
            let rows = rows.flat_map(|(kind, texts)| texts.iter().map(move |text| (text, kind)));
            Regression::train(rows.collect(), features, kinds.len())
        });
        Words { vocabulary, kinds: trained, gate, chain: None }
    }

    /// Lets it know what class follows which in some sequences of them.
    pub fn with_chain(self, sequences: &[Vec<usize>]) -> Words {
        let classes = self.classes();
        Words { chain: Some(Chain::learn(sequences, classes)), ..self }
    }

    /// Returns the likeliest class of a text.
    pub fn classify(&self, text: &str) -> usize {
        let scores = self.scores(text);
        let best = (0..self.classes()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        best.unwrap_or(0)
    }

    /// Returns the logarithm of each class's probability, up to a constant.
    pub fn scores(&self, text: &str) -> Vec<f32> {
        let sparse = self.vocabulary.read(text);
        let Some(gate) = &self.gate else { return self.kinds[0].scores(&sparse) };
        let mut shares = gate.scores(&sparse);
        softmax(&mut shares);
        let mut sum = vec![0.0; self.classes()];
        for (kind, share) in self.kinds.iter().zip(shares) {
            let mut of_kind = kind.scores(&sparse);
            softmax(&mut of_kind);
            sum.iter_mut().zip(of_kind).for_each(|(sum, p)| *sum += share * p);
        }
        sum.into_iter().map(f32::ln).collect()
    }

    /// Returns the scores of the last of some texts, where those before it say what may follow.
    pub fn scores_after(&self, texts: &[&str]) -> Vec<f32> {
        let Some((first, rest)) = texts.split_first() else { return vec![0.0; self.classes()] };
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
        self.kinds[0].classes
    }

    /// Writes it as safetensors: `grams` `[n]` u64, `rarity` `[n]` f32, `weights` `[kinds, n + 1, classes]` f16,
    /// `gate` `[n + 1, kinds]` f16 where there are several kinds; and `chain` `[classes, classes]` f32 if there is
    /// one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut grams: Vec<_> = self.vocabulary.features.iter().collect();
        grams.sort_unstable_by_key(|(_, (feature, _))| *feature);
        let hashes: Vec<u8> = grams.iter().flat_map(|(gram, _)| gram.to_le_bytes()).collect();
        let rarity: Vec<u8> = grams.iter().flat_map(|(_, (_, rarity))| rarity.to_le_bytes()).collect();
        let halves = |regression: &Regression| -> Vec<u8> {
            regression.weights.iter().flat_map(|w| f16::from_f32(*w).to_le_bytes()).collect()
        };
        let weights: Vec<u8> = self.kinds.iter().flat_map(halves).collect();
        let gate: Option<Vec<u8>> = self.gate.as_ref().map(halves);
        let (n, classes, view) =
            (grams.len(), self.classes(), |dtype, shape, bytes| TensorView::new(dtype, shape, bytes));
        let chain = self.chain.iter().flat_map(Chain::ratios);
        let chain: Vec<u8> = chain.flat_map(|ratio| ratio.to_le_bytes()).collect();
        let mut tensors = vec![
            ("grams", view(Dtype::U64, vec![n], &hashes)),
            ("rarity", view(Dtype::F32, vec![n], &rarity)),
            ("weights", view(Dtype::F16, vec![self.kinds.len(), n + 1, classes], &weights)),
        ];
        if let Some(gate) = &gate {
            tensors.push(("gate", view(Dtype::F16, vec![n + 1, self.kinds.len()], gate)));
        }
        if self.chain.is_some() {
            tensors.push(("chain", view(Dtype::F32, vec![classes, classes], &chain)));
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
        let has = |name: &str| tensors.names().contains(&name);
        let of = |name: &str, dtype: Dtype, dimensions: usize| {
            let tensor = tensors.tensor(name).map_err(io::Error::other)?;
            let is_right = tensor.dtype() == dtype && tensor.shape().len() == dimensions;
            if is_right { Ok(tensor) } else { Err(io::Error::other(format!("{name} has another form"))) }
        };
        let (grams, rarity) = (of("grams", Dtype::U64, 1)?, of("rarity", Dtype::F32, 1)?);
        let weights = of("weights", Dtype::F16, 3)?;
        let (n, count, classes) = (grams.shape()[0], weights.shape()[0], weights.shape()[2]);
        if rarity.shape() != [n] || weights.shape()[1] != n + 1 || count == 0 {
            return Err(io::Error::other("grams, rarity and weights are of different lengths"));
        }
        let hashes = grams.data().chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("eight")));
        let features = hashes.zip((0..).zip(singles(rarity.data()))).collect();
        let weights = halves(weights.data());
        let kinds = weights.chunks_exact((n + 1) * classes);
        let kinds = kinds.map(|weights| Regression { weights: weights.to_vec(), classes }).collect();
        let gate = match has("gate") || count > 1 {
            true => {
                let gate = of("gate", Dtype::F16, 2)?;
                if gate.shape() != [n + 1, count] {
                    return Err(io::Error::other("gate and weights are of different kinds of talk"));
                }
                Some(Regression { weights: halves(gate.data()), classes: count })
            }
            false => None,
        };
        let chain = match has("chain") {
            true => {
                let chain = Chain::of(singles(of("chain", Dtype::F32, 2)?.data()).collect(), classes);
                Some(chain.ok_or_else(|| io::Error::other("chain has another number of classes"))?)
            }
            false => None,
        };
        Ok(Some(Words { vocabulary: Vocabulary::with(features), kinds, gate, chain }))
    }
}

fn singles(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four")))
}

fn halves(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
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

    #[test]
    fn the_same_word_may_mean_something_else_in_another_kind_of_talk() {
        let rows = |frame: &str, sick: usize| -> Vec<(String, usize)> {
            let row = |word: &str, class| (format!("{frame} {word} {frame}"), class);
            let once = [row("sick", sick), row("fine", 1), row("bad", 0), row("so", 1 - sick)];
            std::iter::repeat_n(once, 6).flatten().collect()
        };
        let (forum, calls) = (rows("dude that trick was", 1), rows("my policy because I am", 0));
        let words = Words::train_kinds(&[&forum, &calls], 2);
        assert_eq!(words.classify("dude that trick was sick"), 1);
        assert_eq!(words.classify("my policy because I am sick"), 0);
        let p: f32 = words.scores("anything").iter().map(|score| score.exp()).sum();
        assert!((p - 1.0).abs() < 1e-5, "they are probabilities: {p}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.safetensors");
        words.write(&path).unwrap();
        let read = Words::read(&path).unwrap().unwrap();
        for (a, b) in words.scores("my sick trick").into_iter().zip(read.scores("my sick trick")) {
            assert!((a - b).abs() < 5e-3, "{a} and {b}");
        }
    }
}
