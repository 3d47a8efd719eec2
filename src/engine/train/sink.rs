//! Where the gradients of a backward pass go on the processor.

use std::ops::Range;

/// Takes the gradients of a backward pass, which come part by part: the head's of the embeddings, the
/// last norm's, those of the layers from the last to the first, and the embeddings' once more.
pub enum Sink<'a> {
    /// Adds them to the gradients of all parameters.
    Whole(&'a mut [f32]),
    /// Writes one part at a time and hands it over.
    Parts {
        /// Where a part is written: as long as the longest.
        work: &'a mut Vec<f32>,
        /// Gets a part's place among the parameters and its gradients.
        done: &'a mut dyn FnMut(Range<usize>, &mut [f32]),
    },
}

impl Sink<'_> {
    /// Returns where the gradients of a part are added.
    pub fn begin(&mut self, part: &Range<usize>) -> &mut [f32] {
        match self {
            Sink::Whole(gradients) => &mut gradients[part.clone()],
            Sink::Parts { work, .. } => {
                work.clear();
                work.resize(part.len(), 0.0);
                work
            }
        }
    }

    /// Says that the part that was begun last is complete.
    pub fn end(&mut self, part: Range<usize>) {
        if let Sink::Parts { work, done } = self {
            done(part, work);
        }
    }

    /// Gives a part without gradients.
    pub fn skip(&mut self, part: Range<usize>) {
        self.begin(&part);
        self.end(part);
    }
}
