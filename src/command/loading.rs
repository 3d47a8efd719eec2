//! A progress bar for weights that take longer than a moment to load.

use std::time::Duration;
use std::time::Instant;

use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;

/// What loads faster than this shows no bar.
const MOMENT: Duration = Duration::from_millis(700);

/// Returns what is told of each layer that has been loaded; it draws on a terminal only.
pub fn bar() -> impl FnMut(usize, usize) {
    let style = ProgressStyle::with_template("loading the model {bar:30} layer {pos} of {len}, {eta} left");
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
        .with_style(style.expect("a template without mistakes"));
    let started = Instant::now();
    move |done, of| {
        if started.elapsed() > MOMENT && bar.is_hidden() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        if done == of {
            bar.finish_and_clear();
        }
    }
}
