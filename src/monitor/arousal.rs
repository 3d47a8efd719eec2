//! What a raised voice says of an emotion: the words tell whether somebody is pleased, the voice how much.
//!
//! Louder and higher than usual goes with anger and fear, softer and lower with sadness (Scherer, "Vocal
//! communication of emotion", Speech Communication 40, 2003). No recording that we may use has our labels, so the
//! size of the lean is a cautious guess: a voice raised as far as it counts triples the odds of anger against
//! neutral, and nothing more.

use std::collections::BTreeMap;

use crate::event::Contrast;
use crate::event::Emotion;

/// How much louder, in decibels, and how much higher, in semitones, a raised voice is at least. Both count: a
/// telephone held closer is louder, a question is higher.
const LOUDER_DB: f32 = 6.0;
const HIGHER: f32 = 2.0;
/// How many times these the most is that counts.
const MOST: f32 = 2.0;
/// What a voice raised as far as it counts adds to the logarithm of the odds of an emotion of arousal 1: ln 3.
const LEAN: f32 = 1.1;

/// Returns how much the voice is raised: from 0, as usual or softer, over 1/2, where people should know, to 1.
pub fn raised(contrast: Contrast) -> f32 {
    (contrast.louder_db / LOUDER_DB).min(contrast.higher / HIGHER).clamp(0.0, MOST) / MOST
}

/// Returns whether people should know.
pub fn is_raised(contrast: Contrast) -> bool {
    raised(contrast) >= 1.0 / MOST
}

/// Leans probabilities to what a voice raised so far goes with.
pub fn lean(scores: &mut BTreeMap<Emotion, f32>, raised: f32) {
    scores.iter_mut().for_each(|(emotion, p)| *p *= (LEAN * raised * emotion.arousal()).exp());
    let sum: f32 = scores.values().sum();
    scores.values_mut().for_each(|p| *p /= sum.max(f32::MIN_POSITIVE));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voice_is_raised_when_it_is_louder_and_higher() {
        let of = |louder_db, higher| raised(Contrast { louder_db, higher });
        assert_eq!((of(0.0, 0.0), of(20.0, 0.0), of(-3.0, 9.0)), (0.0, 0.0, 0.0));
        assert_eq!((of(6.0, 2.0), of(12.0, 4.0), of(30.0, 12.0)), (0.5, 1.0, 1.0));
        assert!(is_raised(Contrast { louder_db: 6.0, higher: 2.0 }));
        assert!(!is_raised(Contrast { louder_db: 5.9, higher: 7.0 }));
    }

    #[test]
    fn a_raised_voice_makes_the_angry_likelier_and_the_sad_less_so() {
        let even = || Emotion::ALL.map(|emotion| (emotion, 1.0 / 7.0));
        let mut scores = BTreeMap::from(even());
        lean(&mut scores, 1.0);
        assert!((scores.values().sum::<f32>() - 1.0).abs() < 1e-5);
        let odds = |emotion| scores[&emotion] / scores[&Emotion::Neutral];
        assert!((odds(Emotion::Angry) - 3.0).abs() < 0.01 && odds(Emotion::Sad) < 1.0, "{scores:?}");
        let mut same = BTreeMap::from(even());
        lean(&mut same, 0.0);
        assert!(same.values().all(|p| (p - 1.0 / 7.0).abs() < 1e-6));
    }
}
