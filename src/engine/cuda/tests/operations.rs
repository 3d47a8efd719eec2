//! Norms, rotation, attention and routing on an emulated GPU beside the processor's, on awkward sizes.
//!
//! Outputs begin as NaN, and so does what lies behind what may be read.

use crate::engine::cuda::arguments::AttendShape;
use crate::engine::cuda::arguments::RopeShape;
use crate::engine::cuda::arguments::RouteShape;
use crate::engine::cuda::arguments::run;
use crate::engine::cuda::emulator;
use crate::engine::cuda::machine::Buffer;
use crate::engine::cuda::machine::Gpu;
use crate::engine::cuda::machine::Launch;
use crate::engine::cuda::machine::Plain;
use crate::engine::cuda::machine::bytes_of;
use crate::engine::cuda::machine::bytes_of_mut;
use crate::engine::kv_cache::PAGE;
use crate::engine::ops::attention::HeadPage;
use crate::engine::ops::attention::Queries;
use crate::engine::ops::exact;
use crate::engine::ops::rope::Rope;
use crate::engine::ops::rope::Turn;
use crate::engine::ops::route::Routing;
use crate::engine::ops::route::Score;
use crate::engine::ops::route::limit_to_pool;
use crate::engine::ops::route::route;
use crate::engine::ops::testing::numbers;

/// An emulated GPU's memory of numbers.
struct Memory<'a> {
    gpu: &'a Gpu,
    buffer: Buffer,
}

fn put<'a, T: Plain>(gpu: &'a Gpu, numbers: &[T]) -> Memory<'a> {
    Memory { gpu, buffer: Buffer::with(gpu, bytes_of(numbers)).unwrap() }
}

impl Memory<'_> {
    fn at(&self) -> u64 {
        self.buffer.address
    }

    fn read<T: Plain + Default>(&self, count: usize) -> Vec<T> {
        let mut numbers = vec![T::default(); count];
        self.gpu.download(bytes_of_mut(&mut numbers), self.buffer.address).unwrap();
        numbers
    }
}

fn blocks(kernel: &str, x: usize, threads: usize) -> Launch<'_> {
    Launch { kernel, grid: [x, 1, 1], threads, shared: 0 }
}

#[test]
fn norms_are_the_processors_and_their_rows_those_without_a_norm() {
    for (width, rows) in [(4, 1), (20, 3), (192, 5), (1000, 2), (2048, 1)] {
        let gpu = emulator::open();
        let stride = usize::next_multiple_of(width, 32);
        let (x, weight) = (numbers(rows * width, 3.0, 1), numbers(width, 1.0, 2));
        let mut expected = vec![0.0; rows * width];
        exact::rms_norm(&mut expected, &x, &weight, 1e-6);
        let (x, weight, count) = (put(&gpu, &x), put(&gpu, &weight), put(&gpu, &[rows as u32]));
        let sizes = [width as i32, stride as i32];
        for precision in ["f32", "bf16", "q8", "q4"] {
            let empty = || put(&gpu, &vec![f32::NAN; rows * stride]);
            let (y, again, normed) = (empty(), empty(), empty());
            let (scales, scales_again) = (empty(), empty());
            let has_scales = precision.starts_with('q');
            // Blocks beyond the rows do nothing.
            let kernel = format!("norm_{precision}");
            let launch = blocks(&kernel, rows + 2, 256);
            let done = if has_scales {
                run!(gpu, launch; y.at(), scales.at(), normed.at(), x.at(), weight.at(), count.at(), sizes[0], sizes[1], 1e-6_f32)
            } else {
                run!(gpu, launch; y.at(), normed.at(), x.at(), weight.at(), count.at(), sizes[0], sizes[1], 1e-6_f32)
            };
            done.unwrap();
            let found = normed.read::<f32>(rows * width);
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() <= 2e-6 * expected.abs(), "{precision} {width}");
            }
            let kernel = format!("rows_{precision}");
            let launch = blocks(&kernel, rows, 256);
            let done = if has_scales {
                run!(gpu, launch; again.at(), scales_again.at(), normed.at(), count.at(), sizes[0], sizes[1])
            } else {
                run!(gpu, launch; again.at(), normed.at(), count.at(), sizes[0], sizes[1])
            };
            done.unwrap();
            let words = rows * stride;
            assert_eq!(y.read::<u32>(words), again.read::<u32>(words), "{precision} {width}");
            assert_eq!(scales.read::<u32>(words), scales_again.read::<u32>(words), "{precision} {width}");
        }
    }
    emulator::check();
}

#[test]
fn heads_are_normed_and_turned_and_put_in_their_places() {
    // Norms of nothing, of each head, of a row; a limit; half of a head turned.
    for (norm, clip, rotary_dim) in [(0, 0.8, 20), (1, f32::INFINITY, 10), (2, 1.5, 20)] {
        let (gpu, heads, kv_heads, head_dim) = (emulator::open(), 5, 2, 20);
        let (layers, layer, pages) = (3, 1, 4);
        let positions = [0_u32, 63, 64, 130_000];
        let places = [5_u32, 63, 2 * 64 + 1, 3 * 64 + 63];
        let (rows, width) = (positions.len(), (heads + 2 * kv_heads) * head_dim);
        let qkv = numbers(rows * width, 2.0, 3);
        let weights = [numbers(heads * head_dim, 1.0, 4), numbers(kv_heads * head_dim, 1.0, 5)];
        let eps = 1e-6;
        let mut rope = Rope::new(rotary_dim, 10_000.0);
        rope.reserve(130_001);
        let ready = |of: usize, count: usize, row: usize, position: usize| -> Vec<f32> {
            let first = if of == 0 { 0 } else { heads * head_dim };
            let raw = &qkv[row * width + first..][..count * head_dim];
            let mut out = raw.to_vec();
            match norm {
                1 => exact::rms_norm(&mut out, raw, &weights[of][..head_dim], eps),
                2 => exact::rms_norm(&mut out, raw, &weights[of], eps),
                _ => {}
            }
            out.iter_mut().for_each(|v| *v = v.clamp(-clip, clip));
            out.chunks_exact_mut(head_dim).for_each(|head| rope.turn(head, position, Turn::Forward));
            out
        };
        let frequencies: Vec<f32> = (0..rotary_dim / 2)
            .map(|i| (1.0 / 10_000.0_f64.powf(2.0 * i as f64 / rotary_dim as f64)) as f32)
            .collect();
        let of_page = 2 * PAGE * head_dim * kv_heads * layers;
        let (q, cache) =
            (put(&gpu, &vec![f32::NAN; rows * heads * head_dim]), put(&gpu, &vec![7.0_f32; pages * of_page]));
        let shape = RopeShape {
            heads: heads as i32,
            kv_heads: kv_heads as i32,
            head_dim: head_dim as i32,
            rotary_dim: rotary_dim as i32,
            norm,
            layers: layers as i32,
            layer: layer as i32,
            eps,
            clip,
        };
        let (input, count) = (put(&gpu, &qkv), put(&gpu, &[rows as u32]));
        let (query_norm, key_norm) = (put(&gpu, &weights[0]), put(&gpu, &weights[1]));
        let (frequencies, at, to) = (put(&gpu, &frequencies), put(&gpu, &positions), put(&gpu, &places));
        let launch =
            Launch { shared: 4 * rotary_dim, ..blocks("rope_f32", rows + 1, 32 * (heads + 2 * kv_heads)) };
        run!(gpu, launch; q.at(), cache.at(), input.at(), query_norm.at(), key_norm.at(), frequencies.at(), at.at(), to.at(), count.at(), shape)
            .unwrap();
        let (q, cache) = (q.read::<f32>(rows * heads * head_dim), cache.read::<f32>(pages * of_page));
        // Sines of a hundred thousand radians differ in the sixth place between libraries.
        let is_near = |a: f32, b: f32| (a - b).abs() < 2e-5;
        let mut written = vec![false; cache.len()];
        for (row, (position, place)) in positions.iter().zip(&places).enumerate() {
            let expected = ready(0, heads, row, *position as usize);
            let found = &q[row * heads * head_dim..][..heads * head_dim];
            assert!(
                found.iter().zip(&expected).all(|(a, b)| is_near(*a, *b)),
                "queries of {position}, norm {norm}"
            );
            let keys = ready(1, kv_heads, row, *position as usize);
            for head in 0..kv_heads {
                let (page, offset) = (*place as usize / PAGE, *place as usize % PAGE);
                let start =
                    ((page * layers + layer) * kv_heads + head) * 2 * PAGE * head_dim + offset * head_dim;
                let value = &qkv[row * width + (heads + kv_heads + head) * head_dim..][..head_dim];
                for d in 0..head_dim {
                    assert!(is_near(cache[start + d], keys[head * head_dim + d]), "a key of {position}");
                    let at = start + PAGE * head_dim + d;
                    assert_eq!(cache[at], value[d].clamp(-clip, clip), "a value of {position}");
                    (written[start + d], written[at]) = (true, true);
                }
            }
        }
        assert!(cache.iter().zip(written).all(|(v, written)| written || *v == 7.0), "the rest is left alone");
    }
    emulator::check();
}

/// Rows of a piece and the end of what they see.
type Piece = (usize, usize);

/// Checks attention of pieces with heads of a width, of which `group` share keys.
fn check_attention(head_dim: usize, group: usize, pieces: &[Piece], is_exact: bool) {
    let gpu = emulator::open();
    let (kv_heads, layers, layer) = (2, 2, 1);
    let heads = kv_heads * group;
    let rows: usize = pieces.iter().map(|(rows, _)| rows).sum();
    let round = |v: f32| if is_exact { v } else { half::bf16::from_f32(v).to_f32() };
    let rounded =
        |count: usize, seed: u64| -> Vec<f32> { numbers(count, 1.0, seed).into_iter().map(round).collect() };
    let q = rounded(rows * heads * head_dim, 11);
    let count: usize = pieces.iter().map(|(_, end)| end.div_ceil(PAGE)).sum();
    // Pages lie backwards; what is behind an end is not a number.
    let mut cache = vec![f32::NAN; count * layers * kv_heads * 2 * PAGE * head_dim];
    let (mut tables, mut of_pieces, mut first) = (Vec::new(), Vec::new(), 0_usize);
    let mut kept: Vec<Vec<(Vec<f32>, Vec<f32>)>> = Vec::new();
    for (i, (rows, end)) in pieces.iter().enumerate() {
        let table = tables.len();
        for head in 0..kv_heads {
            let (k, v) = (
                rounded(end * head_dim, (100 + 10 * i + head) as u64),
                rounded(end * head_dim, (500 + 10 * i + head) as u64),
            );
            let mut pages = Vec::new();
            for page in 0..end.div_ceil(PAGE) {
                let id = count - 1 - (table + page);
                let start = ((id * layers + layer) * kv_heads + head) * 2 * PAGE * head_dim;
                let (mut keys, mut values) = (vec![0.0; PAGE * head_dim], vec![0.0; PAGE * head_dim]);
                for at in 0..PAGE.min(end - page * PAGE) {
                    for d in 0..head_dim {
                        let from = (page * PAGE + at) * head_dim + d;
                        cache[start + at * head_dim + d] = k[from];
                        cache[start + (PAGE + at) * head_dim + d] = v[from];
                        keys[d * PAGE + at] = k[from];
                        values[at * head_dim + d] = v[from];
                    }
                }
                pages.push((keys, values));
            }
            kept.push(pages);
        }
        tables.extend((0..end.div_ceil(PAGE)).map(|page| (count - 1 - (table + page)) as u32));
        of_pieces.extend([first, *rows, *end, table, 1].map(|n| n as u32));
        first += rows;
    }
    let most_rows = pieces.iter().map(|(rows, _)| *rows).max().unwrap();
    let shape = AttendShape {
        heads: heads as i32,
        kv_heads: kv_heads as i32,
        head_dim: head_dim as i32,
        layers: layers as i32,
        layer: layer as i32,
        only_wanted: 0,
        most_rows: most_rows as i32,
        scale: 1.0 / (head_dim as f32).sqrt(),
    };
    let out = put(&gpu, &vec![f32::NAN; rows * heads * head_dim]);
    let (of_pieces, tables, count) =
        (put(&gpu, &of_pieces), put(&gpu, &tables), put(&gpu, &[pieces.len() as u32]));
    if is_exact {
        let (q, cache) = (put(&gpu, &q), put(&gpu, &cache));
        let launch = Launch {
            kernel: "attend_f32",
            grid: [pieces.len() * most_rows, heads, 1],
            threads: 32,
            shared: 8 * head_dim,
        };
        run!(gpu, launch; out.at(), q.at(), cache.at(), of_pieces.at(), tables.at(), count.at(), shape)
            .unwrap();
    } else {
        let short = |numbers: &[f32]| numbers.iter().map(|v| half::bf16::from_f32(*v)).collect::<Vec<_>>();
        let (q, cache) = (put(&gpu, &short(&q)), put(&gpu, &short(&cache)));
        let partial = put(&gpu, &vec![f32::NAN; rows * heads * 32 * head_dim]);
        let stats = put(&gpu, &vec![f32::NAN; rows * heads * 32 * 2]);
        let kernel = format!("attend_bf16_{head_dim}");
        let launch = Launch {
            kernel: &kernel,
            grid: [pieces.len() * (most_rows * group).div_ceil(64), kv_heads, 32],
            threads: 128,
            shared: 512 * head_dim,
        };
        run!(gpu, launch; partial.at(), stats.at(), q.at(), cache.at(), of_pieces.at(), tables.at(), count.at(), shape)
            .unwrap();
        let launch = Launch {
            kernel: "attend_combine",
            grid: [pieces.len() * most_rows, heads.div_ceil(8), 1],
            threads: 256,
            shared: 0,
        };
        run!(gpu, launch; out.at(), partial.at(), stats.at(), of_pieces.at(), count.at(), shape).unwrap();
    }
    let found = out.read::<f32>(rows * heads * head_dim);
    // Weights are rounded to 16 bits before they meet the values.
    let allowed = if is_exact { 1e-5 } else { 5e-3 };
    let mut first = 0;
    for (i, (rows, end)) in pieces.iter().enumerate() {
        for head in 0..kv_heads {
            let pages = &kept[i * kv_heads + head];
            let pages: Vec<HeadPage> = pages.iter().map(|(keys, values)| HeadPage { keys, values }).collect();
            let stride = heads * head_dim;
            let at = first * stride + head * group * head_dim;
            let queries = Queries { data: &q[at..], stride, rows: *rows, heads: group, head_dim };
            let mut expected = vec![0.0; rows * group * head_dim];
            exact::attend(&mut expected, group * head_dim, queries, &pages, *end);
            for row in 0..*rows {
                let found = &found[at + row * stride..][..group * head_dim];
                let expected = &expected[row * group * head_dim..][..group * head_dim];
                for (found, expected) in found.iter().zip(expected) {
                    assert!(
                        (found - expected).abs() < allowed,
                        "{head_dim} {group} piece {i}: {found} and {expected}"
                    );
                }
            }
        }
        first += rows;
    }
}

#[test]
fn attention_is_the_processors() {
    let pieces: [Piece; 5] = [(1, 1), (16, 63), (7, 64), (32, 65), (5, 700)];
    for (head_dim, group) in [(16, 3), (32, 4), (64, 1), (128, 2)] {
        check_attention(head_dim, group, &pieces, false);
    }
    check_attention(20, 2, &pieces, true);
    check_attention(80, 1, &pieces, true);
    emulator::check();
}

#[test]
fn rows_go_to_the_experts_that_the_processor_chooses() {
    let check = |experts: usize, hidden: usize, routing: Routing, seed: u64| {
        let gpu = emulator::open();
        let (blocks_of_rows, rows) = ([0_u32, 5, 6, 13], 13);
        let k = routing.chosen;
        let (x, router) = (numbers(rows * hidden, 1.0, seed), numbers(experts * hidden, 1.0, seed + 1));
        let bias = numbers(experts, 0.1, seed + 2);
        let mut scores = vec![0.0; rows * experts];
        exact::project(&mut scores, &x, &router, hidden);
        match routing.score {
            Score::Sigmoid => scores.iter_mut().for_each(|s| *s = 1.0 / (1.0 + (-*s).exp())),
            Score::Softmax => scores.chunks_exact_mut(experts).for_each(exact::softmax),
        }
        let found_scores = put(&gpu, &vec![f32::NAN; rows * experts]);
        let (x, router, biases) = (put(&gpu, &x), put(&gpu, &router), put(&gpu, &bias));
        let count = put(&gpu, &[rows as u32]);
        let is_softmax = routing.score == Score::Softmax;
        let mut launch = blocks("route_scores", rows.div_ceil(4), 256);
        launch.grid[1] = if is_softmax { 1 } else { experts.div_ceil(16) };
        run!(gpu, launch; found_scores.at(), x.at(), router.at(), count.at(), experts as i32, hidden as i32, i32::from(is_softmax))
            .unwrap();
        for (found, expected) in found_scores.read::<f32>(rows * experts).iter().zip(&scores) {
            assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
        }
        // From here on the same scores: a choice is not to hang on the last bit.
        let found_scores = put(&gpu, &scores);
        if let Some(capacity) = routing.capacity {
            let starts = put(&gpu, &blocks_of_rows);
            let block_count = put(&gpu, &[3_u32]);
            run!(gpu, blocks("route_pool", 4, 256); found_scores.at(), biases.at(), starts.at(), block_count.at(), experts as i32, capacity as i32)
                .unwrap();
            for ends in blocks_of_rows.windows(2) {
                let of_block = &mut scores[ends[0] as usize * experts..ends[1] as usize * experts];
                limit_to_pool(capacity, of_block, &bias);
            }
            assert_eq!(found_scores.read::<f32>(rows * experts), scores);
        }
        let shape = RouteShape {
            experts: experts as i32,
            chosen: k as i32,
            groups: routing.groups as i32,
            kept_groups: routing.kept_groups as i32,
            normalise: i32::from(routing.normalise),
            scale: routing.scale,
        };
        let (chosen, weights) = (put(&gpu, &vec![9_999_u32; rows * k]), put(&gpu, &vec![f32::NAN; rows * k]));
        run!(gpu, blocks("route_choose", rows.div_ceil(4), 128); chosen.at(), weights.at(), found_scores.at(), biases.at(), count.at(), shape)
            .unwrap();
        let (mut taken, mut shares) = (vec![0; rows * k], vec![0.0; rows * k]);
        for row in 0..rows {
            let (of_row, part) = (&scores[row * experts..(row + 1) * experts], row * k..(row + 1) * k);
            route(routing, of_row, &bias, &mut taken[part.clone()], &mut shares[part]);
        }
        assert_eq!(chosen.read::<u32>(rows * k), taken);
        for (found, expected) in weights.read::<f32>(rows * k).iter().zip(&shares) {
            assert!((found - expected).abs() < 1e-6, "{found} and {expected}");
        }
        let empty = |count: usize| put(&gpu, &vec![9_999_u32; count]);
        let (slot_row, slot_of, starts) = (empty(rows * k), empty(rows * k), empty(experts + 1));
        run!(gpu, blocks("route_sort", experts, 256); slot_row.at(), slot_of.at(), starts.at(), chosen.at(), count.at(), k as i32, experts as i32)
            .unwrap();
        let mut order: Vec<usize> = (0..rows * k).collect();
        order.sort_by_key(|i| taken[*i]);
        let expected: Vec<u32> = order.iter().map(|i| (i / k) as u32).collect();
        assert_eq!(slot_row.read::<u32>(rows * k), expected);
        let slots = slot_of.read::<u32>(rows * k);
        assert!(order.iter().enumerate().all(|(slot, i)| slots[*i] == slot as u32));
        let starts = starts.read::<u32>(experts + 1);
        let before = |expert: usize| taken.iter().filter(|e| (**e as usize) < expert).count() as u32;
        assert!((0..=experts).all(|expert| starts[expert] == before(expert)));
    };
    let routing = Routing {
        score: Score::Sigmoid,
        chosen: 2,
        groups: 1,
        kept_groups: 1,
        capacity: None,
        normalise: true,
        scale: 1.0,
    };
    check(5, 20, routing, 21);
    check(64, 36, Routing { groups: 8, kept_groups: 4, chosen: 8, scale: 2.5, ..routing }, 31);
    check(32, 192, Routing { score: Score::Softmax, normalise: false, chosen: 4, ..routing }, 41);
    check(40, 100, Routing { capacity: Some(7), chosen: 3, ..routing }, 51);
    emulator::check();
}
