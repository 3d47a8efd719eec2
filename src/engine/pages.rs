//! Who owns which page of the KV cache, and which page holds which prefix. Integers, no tensor.
//!
//! A page holds the keys and values of [`PAGE`] positions. Sequences hold references; a page that
//! many hold is read by all and written by none. A full page of settled tokens is entered into an
//! index under the pages before it, so that a later sequence that begins the same finds it. A page
//! that nobody holds stays in the index until its place is needed: the one unused for longest goes
//! first, and of one chain the last, so that what is left is always reachable.
//!
//! ```text
//! take ──▶ owned ──release──▶ free                     (never entered)
//!            └──enter──▶ owned, indexed ──release──▶ idle ──share──▶ owned, indexed
//!                                                      └──take (evicted)──▶ owned
//! ```

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::collections::HashMap;

use crate::engine::kv_cache::PAGE;
use crate::engine::model::tuned::AdapterId;

/// The number of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId(u32);

impl PageId {
    /// Returns the page's place in the pool.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What the keys and values of a sequence depend on beside its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The block length: it decides what a row sees.
    pub block: usize,
    /// Whose experts the rows run through; the base's when `None`.
    pub adapter: Option<AdapterId>,
}

/// What comes before a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Before {
    /// Nothing: the sequence begins here.
    Start(Origin),
    /// A page of the index.
    Page(PageId),
}

/// A full page by what it holds: what comes before it and its own tokens.
type Key = (Before, Box<[u32]>);

#[derive(Debug, Default)]
struct Page {
    references: u32,
    /// Its entry in the index.
    key: Option<Key>,
    /// How many pages come before it.
    depth: u32,
    last_used: u64,
}

/// Every page of one pool.
#[derive(Debug)]
pub struct Pages {
    pages: Vec<Page>,
    free: Vec<PageId>,
    index: HashMap<Key, PageId>,
    /// Pages in the index that nobody holds, in the order in which they are evicted. A page is
    /// used whenever one behind it is, so the first never has another behind it.
    idle: BTreeSet<(u64, Reverse<u32>, PageId)>,
    clock: u64,
}

impl Pages {
    /// Makes a pool of `count` free pages.
    pub fn new(count: usize) -> Pages {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Pages {
            pages: (0..count).map(|_| Page::default()).collect(),
            free: (0..count).rev().map(PageId).collect(),
            index: HashMap::new(),
            idle: BTreeSet::new(),
            clock: 0,
        }
    }

    /// Returns how many pages could be taken now.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Returns the number of all pages.
    pub fn count(&self) -> usize {
        self.pages.len()
    }

    /// Returns the longest chain of indexed pages that a sequence of this origin and `tokens`
    /// begins with, each held once more.
    pub fn share(&mut self, origin: Origin, tokens: &[u32]) -> Vec<PageId> {
        self.clock += 1;
        let mut chain = Vec::new();
        let mut before = Before::Start(origin);
        for tokens in tokens.chunks_exact(PAGE) {
            let Some(page) = self.index.get(&(before, tokens.into())).copied() else { break };
            self.hold(page);
            chain.push(page);
            before = Before::Page(page);
        }
        chain
    }

    /// Returns a page that nobody else holds, for its taker to write; `None` when all are held.
    pub fn take(&mut self) -> Option<PageId> {
        let page = match self.free.pop() {
            Some(page) => page,
            None => {
                let (_, _, page) = self.idle.pop_first()?;
                let key = self.pages[page.index()].key.take();
                self.index.remove(&key.expect("an idle page is indexed"));
                page
            }
        };
        self.pages[page.index()] = Page { references: 1, ..Page::default() };
        Some(page)
    }

    /// Enters a full page, which its holder wrote and will not write again, under what is before it.
    ///
    /// Returns the page to go on with: when another sequence was first to enter the same tokens,
    /// its page, now held, and the given one is released.
    pub fn enter(&mut self, before: Before, page: PageId, tokens: &[u32]) -> PageId {
        debug_assert_eq!(tokens.len(), PAGE, "only full pages are shared");
        let key: Key = (before, tokens.into());
        if let Some(first) = self.index.get(&key).copied() {
            if first != page {
                self.hold(first);
                self.release(page);
            }
            return first;
        }
        let depth = match before {
            Before::Start(_) => 0,
            Before::Page(before) => self.pages[before.index()].depth + 1,
        };
        let entry = &mut self.pages[page.index()];
        entry.key = Some(key.clone());
        entry.depth = depth;
        self.index.insert(key, page);
        page
    }

    /// Gives up one reference.
    pub fn release(&mut self, page: PageId) {
        let entry = &mut self.pages[page.index()];
        debug_assert!(entry.references > 0, "a page is released once for each time it was held");
        entry.references -= 1;
        if entry.references > 0 {
            return;
        }
        if entry.key.is_some() {
            self.idle.insert((entry.last_used, Reverse(entry.depth), page));
        } else {
            self.free.push(page);
        }
    }

    /// Gives up a chain of pages at one moment, so that its last page is evicted first.
    pub fn release_all(&mut self, chain: &[PageId]) {
        self.clock += 1;
        for page in chain {
            self.pages[page.index()].last_used = self.clock;
            self.release(*page);
        }
    }

    fn hold(&mut self, page: PageId) {
        let entry = &mut self.pages[page.index()];
        if entry.references == 0 {
            self.idle.remove(&(entry.last_used, Reverse(entry.depth), page));
        }
        entry.references += 1;
        entry.last_used = self.clock;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns tokens of which each of `pages` fills a page.
    fn filled(pages: &[u32]) -> Vec<u32> {
        pages.iter().flat_map(|token| [*token; PAGE]).collect()
    }

    const ORIGIN: Origin = Origin { block: 16, adapter: None };

    fn under(chain: &[PageId], at: usize) -> Before {
        at.checked_sub(1).map_or(Before::Start(ORIGIN), |before| Before::Page(chain[before]))
    }

    /// A sequence as the engine runs it: shared pages, then its own, entered one by one as they fill.
    /// One token stands for a page of them.
    struct Holder {
        tokens: Vec<u32>,
        chain: Vec<PageId>,
        entered: usize,
    }

    #[derive(Debug, Clone)]
    enum Step {
        Begin(Vec<u32>),
        Fill(usize),
        Drop(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let tokens = proptest::collection::vec(0_u32..2, 1..7);
        let step = prop_oneof![
            tokens.prop_map(Step::Begin),
            any::<usize>().prop_map(Step::Fill),
            any::<usize>().prop_map(Step::Drop),
        ];
        proptest::collection::vec(step, 1..80)
    }

    fn check(pages: &Pages, holders: &[Holder], written: &HashMap<PageId, Vec<u32>>) {
        let mut held: HashMap<PageId, u32> = HashMap::new();
        for holder in holders {
            for page in &holder.chain {
                *held.entry(*page).or_default() += 1;
            }
            for (i, page) in holder.chain[..holder.entered].iter().enumerate() {
                assert_eq!(written[page], holder.tokens[..=i], "a page holds its prefix");
            }
        }
        for (i, page) in pages.pages.iter().enumerate() {
            let id = PageId(i as u32);
            assert_eq!(page.references, held.get(&id).copied().unwrap_or(0), "references of {id:?}");
            let is_free = pages.free.contains(&id);
            let is_idle = pages.idle.iter().any(|(_, _, idle)| *idle == id);
            let states = [is_free, is_idle, page.references > 0].iter().filter(|s| **s).count();
            assert_eq!(states, 1, "{id:?} is free, idle or held");
            if let Some((before, _)) = &page.key {
                assert!(!is_free, "what is indexed is not free");
                let is_reachable = match before {
                    Before::Start(_) => true,
                    Before::Page(before) => pages.pages[before.index()].key.is_some(),
                };
                assert!(is_reachable, "{id:?} is reachable");
            }
        }
        assert_eq!(pages.index.len(), pages.pages.iter().filter(|p| p.key.is_some()).count());
    }

    proptest! {
        #[test]
        fn no_page_is_lost_or_both_free_and_held(steps in steps()) {
            let mut pages = Pages::new(10);
            let mut holders: Vec<Holder> = Vec::new();
            let mut written: HashMap<PageId, Vec<u32>> = HashMap::new();
            for step in steps {
                match step {
                    Step::Begin(tokens) => {
                        let mut chain = pages.share(ORIGIN, &filled(&tokens));
                        let entered = chain.len();
                        while chain.len() < tokens.len() {
                            match pages.take() {
                                Some(page) => chain.push(page),
                                None => break,
                            }
                        }
                        if chain.len() < tokens.len() {
                            prop_assert_eq!(pages.available(), 0);
                            pages.release_all(&chain);
                        } else {
                            holders.push(Holder { tokens, chain, entered });
                        }
                    }
                    Step::Fill(which) if !holders.is_empty() => {
                        let which = which % holders.len();
                        let holder = &mut holders[which];
                        let at = holder.entered;
                        if at < holder.tokens.len() {
                            let tokens = filled(&holder.tokens[at..=at]);
                            let page = pages.enter(under(&holder.chain, at), holder.chain[at], &tokens);
                            written.insert(page, holder.tokens[..=at].to_vec());
                            holder.chain[at] = page;
                            holder.entered += 1;
                        }
                    }
                    Step::Drop(which) if !holders.is_empty() => {
                        let holder = holders.swap_remove(which % holders.len());
                        pages.release_all(&holder.chain);
                    }
                    Step::Fill(_) | Step::Drop(_) => {}
                }
                check(&pages, &holders, &written);
            }
            for holder in holders.drain(..) {
                pages.release_all(&holder.chain);
            }
            prop_assert_eq!(pages.available(), pages.count());
        }
    }

    #[test]
    fn a_sequence_that_begins_like_another_shares_its_full_pages() {
        let mut pages = Pages::new(4);
        let chain = [pages.take().unwrap(), pages.take().unwrap()];
        for (at, token) in [5, 6].into_iter().enumerate() {
            pages.enter(under(&chain, at), chain[at], &filled(&[token]));
        }
        assert_eq!(pages.share(ORIGIN, &filled(&[5, 7])), chain[..1]);
        assert_eq!(pages.share(ORIGIN, &filled(&[5, 6, 7])), chain);
        assert_eq!(pages.share(ORIGIN, &filled(&[6])), [], "a page is known with what comes before it");
        let wider = Origin { block: 32, ..ORIGIN };
        assert_eq!(pages.share(wider, &filled(&[5])), [], "other blocks see other positions");
        let tuned = Origin { adapter: Some(AdapterId::next()), ..ORIGIN };
        assert_eq!(pages.share(tuned, &filled(&[5])), [], "other experts give other keys and values");
    }

    #[test]
    fn the_end_of_the_chain_that_was_unused_for_longest_is_evicted_first() {
        let mut pages = Pages::new(3);
        let chain: Vec<PageId> = (0..3).map(|_| pages.take().unwrap()).collect();
        for at in 0..3 {
            pages.enter(under(&chain, at), chain[at], &filled(&[at as u32]));
        }
        assert_eq!(pages.take(), None);
        pages.release_all(&chain);
        assert_eq!(pages.available(), 3);
        assert_eq!(pages.take(), Some(chain[2]));
        assert_eq!(pages.share(ORIGIN, &filled(&[0, 1, 2])), chain[..2]);
    }
}
