//! Allowances for attempts: each key has some at once and gets one back at a time.
//!
//! Memory is bounded: at most `keys_max` keys are remembered, and the one that has most of its
//! allowance back is forgotten first.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

/// How many attempts a key has.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// How many at once.
    pub attempts: u32,
    /// How long until one comes back.
    pub one_back_after: Duration,
    /// How many keys are remembered.
    pub keys_max: usize,
}

/// Counts attempts by key.
///
/// Of each key it keeps one number, the time at which the whole allowance will be back (the
/// generic cell rate algorithm, ITU-T I.371): an attempt moves it by `one_back_after`, and is
/// refused if that would take it further than the allowance reaches.
#[derive(Debug)]
pub struct Attempts {
    allowance: Allowance,
    whole_at: Mutex<HashMap<String, Instant>>,
}

impl Attempts {
    /// Remembers nothing yet.
    pub fn new(allowance: Allowance) -> Attempts {
        Attempts { allowance, whole_at: Mutex::new(HashMap::new()) }
    }

    /// Takes one attempt of `key` at `now`.
    ///
    /// # Errors
    /// How long to wait, when there is none left.
    pub fn take(&self, key: &str, now: Instant) -> Result<(), Duration> {
        let mut whole_at = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        let before = whole_at.get(key).copied().unwrap_or(now).max(now);
        let after = before + self.allowance.one_back_after;
        let reach = now + self.allowance.one_back_after * self.allowance.attempts;
        if after > reach {
            return Err(after - reach);
        }
        if whole_at.len() >= self.allowance.keys_max && !whole_at.contains_key(key) {
            make_room(&mut whole_at, now);
        }
        whole_at.insert(key.to_owned(), after);
        Ok(())
    }

    /// Gives one attempt back, because it was a good one.
    pub fn give_back(&self, key: &str) {
        let mut whole_at = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = whole_at.get_mut(key) {
            *at -= self.allowance.one_back_after;
        }
    }

    /// Gives the whole allowance back.
    pub fn forget(&self, key: &str) {
        self.whole_at.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// Forgets who has everything back, or else who has most of it back.
fn make_room(whole_at: &mut HashMap<String, Instant>, now: Instant) {
    let before = whole_at.len();
    whole_at.retain(|_, at| *at > now);
    if whole_at.len() < before {
        return;
    }
    let first = whole_at.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone());
    if let Some(key) = first {
        whole_at.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn attempts(keys_max: usize) -> Attempts {
        Attempts::new(Allowance { attempts: 3, one_back_after: 10 * SECOND, keys_max })
    }

    #[test]
    fn the_fourth_attempt_waits_until_one_is_back() {
        let (attempts, start) = (attempts(10), Instant::now());
        for _ in 0..3 {
            assert_eq!(attempts.take("a", start), Ok(()));
        }
        assert_eq!(attempts.take("a", start), Err(10 * SECOND));
        assert_eq!(attempts.take("b", start), Ok(()));
        assert_eq!(attempts.take("a", start + 4 * SECOND), Err(6 * SECOND));
        assert_eq!(attempts.take("a", start + 10 * SECOND), Ok(()));
        assert_eq!(attempts.take("a", start + 10 * SECOND), Err(10 * SECOND));
    }

    #[test]
    fn a_good_attempt_costs_nothing() {
        let (attempts, start) = (attempts(10), Instant::now());
        for _ in 0..20 {
            assert_eq!(attempts.take("a", start), Ok(()));
            attempts.give_back("a");
        }
        for _ in 0..3 {
            assert_eq!(attempts.take("a", start), Ok(()));
        }
        attempts.forget("a");
        assert_eq!(attempts.take("a", start), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_the_busiest_is_remembered() {
        let (attempts, start) = (attempts(4), Instant::now());
        for _ in 0..3 {
            assert_eq!(attempts.take("busy", start), Ok(()));
        }
        for visitor in 0..100 {
            assert_eq!(attempts.take(&format!("visitor {visitor}"), start), Ok(()));
        }
        assert_eq!(attempts.whole_at.lock().expect("the lock").len(), 4);
        assert!(attempts.take("busy", start).is_err());
    }
}
