//! Charts as inline SVG: lines over tokens, and the load of a layer's experts. Colours are the page's.
//!
//! Drawn 400 units wide, about a phone's width, so that labels are legible there and larger elsewhere.

use std::fmt::Write;

use crate::command::train::report::escape;

/// Width of a chart.
const WIDTH: f64 = 400.0;
/// Height of a chart of lines.
const HEIGHT: f64 = 220.0;
/// Where the plot lies: space for labels beside and below it.
const LEFT: f64 = 44.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 24.0;
/// The most points of a line; neighbours are averaged until they are as few.
const MOST_POINTS: usize = 240;
/// The most columns of a heat map.
const MOST_COLUMNS: usize = 60;
/// The smallest number that is written out.
const SMALLEST: f64 = 1e-4;

/// One line.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// What it is, for the legend.
    pub name: &'static str,
    /// Tokens and value, by rising tokens.
    pub points: Vec<(f64, f64)>,
}

/// Returns a figure with a title and lines; nothing where no line has a point.
pub fn lines(title: &str, lines: &[Line]) -> String {
    let lines: Vec<Line> = lines.iter().map(thinned).collect();
    let all = || lines.iter().flat_map(|line| &line.points).copied();
    let Some((first, _)) = all().next() else { return String::new() };
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    };
    let (_, last) = range(&mut all().map(|(tokens, _)| tokens).chain([first]));
    let (low, high) = range(&mut all().map(|(_, value)| value));
    // What is about zero shows zero, and a flat line is no line at the edge.
    let low = if low > 0.0 && low < 0.3 * high { 0.0 } else { low };
    let high = if high > low { high } else { low + low.abs().max(1e-9) * 0.1 };
    let steps = ticks(low, high);
    let (low, high) = (low.min(steps[0]), high.max(steps[steps.len() - 1]));
    let x = |tokens: f64| LEFT + tokens / last.max(1.0) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM);

    let mut svg = String::new();
    for tick in &steps {
        let at = y(*tick);
        let _ = write!(
            svg,
            r#"<path class="grid" d="M{LEFT} {at:.1}H{:.1}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            short(*tick)
        );
    }
    for tick in ticks(0.0, last).into_iter().filter(|tick| *tick <= last) {
        let anchor = if x(tick) > WIDTH - 2.0 * BOTTOM { "end" } else { "middle" };
        let _ = write!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="{anchor}">{}</text>"#,
            x(tick),
            HEIGHT - 6.0,
            short(tick)
        );
    }
    let mut legend = String::new();
    for (i, line) in lines.iter().enumerate().filter(|(_, line)| !line.points.is_empty()) {
        let mut path = String::new();
        let mut dots = String::new();
        for (j, (tokens, value)) in line.points.iter().enumerate() {
            let (x, y) = (x(*tokens), y(*value));
            let _ = write!(path, "{}{x:.1} {y:.1}", if j == 0 { "M" } else { "L" });
            let about = format!("{} tokens: {}", short(*tokens), exact(*value));
            let _ = write!(dots, r#"<circle cx="{x:.1}" cy="{y:.1}" r="5"><title>{about}</title></circle>"#);
        }
        let _ = write!(svg, r#"<g class="line{i}"><path d="{path}"/>{dots}</g>"#);
        let newest = line.points.last().map_or(0.0, |(_, value)| *value);
        let _ =
            write!(legend, r#"<span class="key{i}">{} <b>{}</b></span>"#, escape(line.name), exact(newest));
    }
    let title = escape(title);
    format!(
        r#"<figure><figcaption>{title}{legend}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{svg}</svg></figure>"#
    )
}

/// Returns a figure of one layer: a column for each checkpoint, a row for each expert, coloured by how
/// far its share of the rows is from an even one.
///
/// `shares` has the tokens of each checkpoint and the shares of its experts.
pub fn heat(title: &str, shares: &[(f64, &[f64])]) -> String {
    let experts = shares.iter().map(|(_, shares)| shares.len()).max().unwrap_or(0);
    if experts == 0 {
        return String::new();
    }
    let step = shares.len().div_ceil(MOST_COLUMNS).max(1);
    // The newest is always there.
    let mut columns: Vec<&(f64, &[f64])> = shares.iter().rev().step_by(step).collect();
    columns.reverse();
    let height = (128.0 / experts as f64).clamp(2.0, 12.0);
    let width = (WIDTH - RIGHT) / columns.len() as f64;
    let mut paths = vec![String::new(); LEVELS.len()];
    for (column, (_, shares)) in columns.iter().enumerate() {
        for (expert, share) in shares.iter().enumerate() {
            let (x, y) = (column as f64 * width, expert as f64 * height);
            let level = level(share * shares.len() as f64);
            let _ = write!(paths[level], "M{x:.1} {y:.1}h{width:.2}v{height:.1}h-{width:.2}z");
        }
    }
    let mut svg = String::new();
    for (level, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
        let _ = write!(svg, r#"<path class="heat{level}" d="{path}"/>"#);
    }
    let below = experts as f64 * height;
    let at = below + 15.0;
    let _ = write!(
        svg,
        r#"<text x="0" y="{at:.1}">{}</text><text x="{:.1}" y="{at:.1}" text-anchor="end">{} tokens</text>"#,
        short(columns[0].0),
        WIDTH - RIGHT,
        short(columns[columns.len() - 1].0),
    );
    let title = escape(title);
    format!(
        r#"<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {WIDTH} {:.1}" role="img" aria-label="{title}">{svg}</svg></figure>"#,
        below + 20.0
    )
}

/// How the load of an expert is called, and below how many times an even share.
pub const LEVELS: [(&str, f64); 7] = [
    ("under 0.1", 0.1),
    ("to 0.5", 0.5),
    ("to 0.8", 0.8),
    ("even", 1.25),
    ("to 2", 2.0),
    ("to 4", 4.0),
    ("over 4", f64::INFINITY),
];

fn level(times_even: f64) -> usize {
    LEVELS.iter().position(|(_, below)| times_even < *below).unwrap_or(LEVELS.len() - 1)
}

/// Averages neighbours until a line has no more than [`MOST_POINTS`].
fn thinned(line: &Line) -> Line {
    let finite: Vec<(f64, f64)> =
        line.points.iter().copied().filter(|(_, value)| value.is_finite()).collect();
    let count = finite.len().div_ceil(MOST_POINTS).max(1);
    let mean = |points: &[(f64, f64)]| {
        let count = points.len() as f64;
        let sum = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / count, sum.1 / count)
    };
    Line { points: finite.chunks(count).map(mean).collect(), ..*line }
}

/// Returns three to seven round numbers from the first at or below `low` to the last at or above `high`.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = ((high - low) / 4.0).max(f64::MIN_POSITIVE);
    let power = 10.0_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
    // In whole numbers, so that errors do not add up.
    (0..=(last - first) as usize).map(|i| (first + i as f64) * step).collect()
}

/// Returns a number as an axis shows it.
pub fn short(number: f64) -> String {
    let (scaled, unit) = match number.abs() {
        n if n >= 1e9 => (number / 1e9, " G"),
        n if n >= 1e6 => (number / 1e6, " M"),
        n if n >= 1e4 => (number / 1e3, " k"),
        n if n > 0.0 && n < SMALLEST => return format!("{number:.1e}"),
        n if n < 0.1 => return trimmed(&format!("{number:.5}")),
        _ => (number, ""),
    };
    trimmed(&format!("{scaled:.3}")) + unit
}

/// Returns a number with the digits that tell it from its neighbours.
pub fn exact(number: f64) -> String {
    match number.abs() {
        n if n >= 1e4 => short(number),
        n if n >= 100.0 => format!("{number:.0}"),
        n if n >= 0.1 || n == 0.0 => format!("{number:.3}"),
        n if n >= SMALLEST => trimmed(&format!("{number:.5}")),
        _ => format!("{number:.2e}"),
    }
}

/// Returns a number without the zeros at its end.
fn trimmed(number: &str) -> String {
    number.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_numbers_around_the_values() {
        let check = |low: f64, high: f64, expected: &[f64]| {
            let found = ticks(low, high);
            let same = found.len() == expected.len()
                && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9 * high.abs());
            assert!(same, "{low} to {high}: {found:?}");
        };
        check(0.0, 10.0, &[0.0, 2.5, 5.0, 7.5, 10.0]);
        check(3.7, 8.4, &[2.0, 4.0, 6.0, 8.0, 10.0]);
        check(0.0, 27.2e6, &[0.0, 1e7, 2e7, 3e7]);
        check(4.53, 4.55, &[4.53, 4.535, 4.54, 4.545, 4.55]);
        assert_eq!(
            ["0", "2.5", "12 k", "27.23 M", "0.002", "2.0e-5"].map(str::to_owned),
            [0.0, 2.5, 12e3, 27.23e6, 2e-3, 2e-5].map(short)
        );
    }

    #[test]
    fn long_lines_are_averaged_and_what_is_no_number_is_left_out() {
        let mut points: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        points.push((1000.0, f64::NAN));
        let line = thinned(&Line { name: "a", points });
        assert_eq!(line.points.len(), 200);
        assert_eq!(line.points[0], (2.0, 0.4));
        assert!(lines("empty", &[Line::default()]).is_empty());
    }

    #[test]
    fn a_chart_stays_within_its_borders() {
        let line = Line { name: "a<b", points: vec![(0.0, 1.0), (5e5, 9.0), (1e6, 3.0)] };
        let flat = Line { name: "flat", points: vec![(1.0, 2.0)] };
        for chart in [lines("t", &[line]), lines("t", &[flat])] {
            let numbers = chart.split(['"', ' ', 'M', 'L']).filter_map(|word| word.parse::<f64>().ok());
            assert!(numbers.clone().count() > 10);
            assert!(numbers.into_iter().all(|number| (0.0..=WIDTH).contains(&number)), "{chart}");
            assert!(!chart.contains("NaN") && !chart.contains("a<b"), "{chart}");
        }
    }

    #[test]
    fn the_load_of_experts_is_coloured_by_its_distance_from_even() {
        assert_eq!([0.0, 0.3, 1.0, 1.3, 3.9, 100.0].map(level), [0, 1, 3, 4, 5, 6]);
        let shares = [0.25, 0.25, 0.0, 0.5];
        let columns: Vec<(f64, &[f64])> = (0..100).map(|i| (f64::from(i), &shares[..])).collect();
        let chart = heat("Layer 1", &columns);
        let cells = |class: &str| {
            let path = chart.split(class).nth(1).unwrap_or_default();
            path.split("/>").next().unwrap_or_default().matches('M').count()
        };
        assert_eq!([cells("heat3"), cells("heat0"), cells("heat5"), cells("heat1")], [100, 50, 50, 0]);
        assert!(chart.contains(">99 tokens<"), "{chart}");
    }
}
