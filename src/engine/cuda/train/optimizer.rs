//! The optimizer on a GPU: moments beside the parameters that they move, as [`crate::engine::train::optimizer`].
//!
//! Matrices of one shape move together, so that a layer of experts is one product and not as many as it has experts.

use std::collections::BTreeMap;

use crate::engine::cuda::arguments::run;
use crate::engine::cuda::machine::Buffer;
use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Gpu;
use crate::engine::cuda::machine::Launch;
use crate::engine::cuda::machine::Plain;
use crate::engine::cuda::machine::bytes_of;
use crate::engine::cuda::machine::bytes_of_mut;
use crate::engine::cuda::train::launches;
use crate::engine::cuda::train::launches::Kind;
use crate::engine::cuda::train::launches::Product;
use crate::engine::cuda::train::launches::blocks;
use crate::engine::cuda::train::steps::after;
use crate::engine::cuda::train::steps::sized;
use crate::engine::ops::matmul::Precision;
use crate::engine::train::muon::ITERATIONS;
use crate::engine::train::muon::QUINTIC;
use crate::engine::train::optimizer;
use crate::engine::train::optimizer::Rule;
use crate::engine::train::optimizer::Update;
use crate::engine::train::shards::Stage;

/// Numbers of the matrices that move together, and the most matrices: a grid's limit.
const TOGETHER: usize = 1 << 26;
const MOST_TOGETHER: usize = 65_535;
/// Numbers that a thread takes, so that few blocks are launched for little.
const OF_THREAD: usize = 8;
/// The most blocks that go through one array.
const MOST_BLOCKS: usize = 1024;
/// The most blocks of one matrix: `train_unit` sums as many numbers as a block has threads.
const MOST_OF_MATRIX: usize = 256;

/// The moments of what a rank owns.
#[derive(Debug)]
pub struct Optimizer {
    gpu: Gpu,
    precision: Precision,
    /// First moments, one tensor behind the other.
    first: Buffer,
    /// Second moments likewise; matrices have none.
    second: Buffer,
    /// What AdamW moves.
    rows: Vec<Tensor>,
    /// What Muon moves.
    groups: Vec<Group>,
    /// Where neighbouring gradients begin, and how many there are.
    gradients: Vec<(usize, usize)>,
    /// Sums of squares.
    squares: Buffer,
    work: Work,
}

/// A tensor that AdamW moves; places are counted in numbers.
#[derive(Debug, Clone, Copy)]
struct Tensor {
    parameter: usize,
    gradient: usize,
    first: usize,
    second: usize,
    len: usize,
    decays: bool,
}

/// Matrices of one shape.
#[derive(Debug)]
struct Group {
    rows: usize,
    columns: usize,
    count: usize,
    /// Where each begins among parameters, gradients and moments, i64.
    parameters: Buffer,
    gradients: Buffer,
    firsts: Buffer,
    /// Where the rows of each begin when they stand one below the other, and those of square matrices of the
    /// smaller side, i32.
    row_bounds: Buffer,
    side_bounds: Buffer,
}

/// Memory of a group's step.
#[derive(Debug)]
struct Work {
    x: Buffer,
    next: Buffer,
    gram: Buffer,
    polynomial: Buffer,
}

impl Plain for Update {}
impl Plain for f64 {}

impl Optimizer {
    /// Makes room for the moments of what an optimizer moves; at stage 2 its gradients are by themselves.
    ///
    /// # Errors
    /// When the GPU has too little memory.
    pub fn new(gpu: &Gpu, of: &optimizer::Optimizer, stage: Stage) -> Result<Optimizer, CudaError> {
        let (mut first, mut second) = (0, 0);
        let mut rows = Vec::new();
        let mut gradients: Vec<(usize, usize)> = Vec::new();
        let mut matrices: BTreeMap<(usize, usize), Vec<[i64; 3]>> = BTreeMap::new();
        for (range, rule) in of.tensors() {
            let len = range.len();
            let gradient = if stage == Stage::Gradients { first } else { range.start };
            match gradients.last_mut() {
                Some((start, count)) if *start + *count == gradient => *count += len,
                _ => gradients.push((gradient, len)),
            }
            match *rule {
                Rule::Matrix { rows, columns } => {
                    let places = [range.start, gradient, first].map(|place| place as i64);
                    matrices.entry((rows, columns)).or_default().push(places);
                }
                Rule::Vector | Rule::Table => {
                    let decays = *rule == Rule::Table;
                    rows.push(Tensor { parameter: range.start, gradient, first, second, len, decays });
                }
            }
            first += len;
            second += rule.second(len);
        }
        let mut groups = Vec::new();
        let mut work = [0_usize; 2];
        for ((rows, columns), places) in matrices {
            let (size, side) = (rows * columns, rows.min(columns));
            for places in places.chunks((TOGETHER / size).clamp(1, MOST_TOGETHER)) {
                let count = places.len();
                let of_place = |i: usize| {
                    let places: Vec<i64> = places.iter().map(|places| places[i]).collect();
                    Buffer::with(gpu, bytes_of(&places))
                };
                let bounds = |each: usize| {
                    let bounds: Vec<u32> = (0..=count).map(|matrix| (matrix * each) as u32).collect();
                    Buffer::with(gpu, bytes_of(&bounds))
                };
                work = [work[0].max(count * size), work[1].max(count * side * side)];
                groups.push(Group {
                    rows,
                    columns,
                    count,
                    parameters: of_place(0)?,
                    gradients: of_place(1)?,
                    firsts: of_place(2)?,
                    row_bounds: bounds(rows)?,
                    side_bounds: bounds(side)?,
                });
            }
        }
        let numbers = |count: usize| Buffer::new(gpu, count * size_of::<f32>());
        // Also the squares of the matrices that move together.
        let most = groups.iter().map(|group| group.count * MOST_OF_MATRIX).max().unwrap_or(0);
        let squares = gradients.iter().map(|(_, count)| grid(*count)).sum::<usize>();
        Ok(Optimizer {
            precision: of.config().precision,
            first: numbers(first)?,
            second: numbers(second)?,
            rows,
            groups,
            gradients,
            squares: Buffer::new(gpu, (squares * size_of::<f64>()).max(most * size_of::<f32>()))?,
            work: Work {
                x: numbers(work[0])?,
                next: numbers(work[0])?,
                gram: numbers(work[1])?,
                polynomial: numbers(work[1])?,
            },
            gpu: Gpu::clone(gpu),
        })
    }

    /// Returns how many bytes the moments take.
    pub fn moment_bytes(&self) -> usize {
        self.first.bytes + self.second.bytes
    }

    /// Returns how many bytes a step takes beside them.
    pub fn work_bytes(&self) -> usize {
        let Work { x, next, gram, polynomial } = &self.work;
        [x, next, gram, polynomial, &self.squares].iter().map(|buffer| buffer.bytes).sum()
    }

    /// Takes the moments of an optimizer on the processor.
    ///
    /// # Errors
    /// When a copy fails; so with all that follow.
    pub fn set(&self, from: &optimizer::Optimizer) -> Result<(), CudaError> {
        let [first, second] = from.all_moments();
        self.gpu.upload(self.first.address, bytes_of(first))?;
        self.gpu.upload(self.second.address, bytes_of(second))
    }

    /// Gives the moments to an optimizer on the processor.
    ///
    /// # Errors
    /// As [`Optimizer::set`].
    pub fn get(&self, to: &mut optimizer::Optimizer) -> Result<(), CudaError> {
        let [first, second] = to.all_moments_mut();
        self.gpu.download(bytes_of_mut(first), self.first.address)?;
        self.gpu.download(bytes_of_mut(second), self.second.address)
    }

    /// Returns the sum of the squares of the gradients, which begin at an address.
    ///
    /// # Errors
    /// As [`Optimizer::set`].
    pub fn square(&self, gradients: u64) -> Result<f64, CudaError> {
        let mut partial = 0;
        for (start, count) in &self.gradients {
            let to = self.squares.address + (partial * size_of::<f64>()) as u64;
            let launch = blocks("train_square", grid(*count));
            run!(self.gpu, launch; to, after(gradients, *start), *count as i64)?;
            partial += grid(*count);
        }
        let mut sums = vec![0.0_f64; partial];
        self.gpu.download(bytes_of_mut(&mut sums), self.squares.address)?;
        Ok(sums.iter().sum())
    }

    /// Moves the parameters, which begin at an address as the gradients do, and clears the gradients.
    ///
    /// # Errors
    /// As [`Optimizer::set`].
    pub fn step(&self, parameters: u64, gradients: u64, update: Update) -> Result<(), CudaError> {
        for tensor in &self.rows {
            let update = if tensor.decays { update } else { Update { kept: 1.0, ..update } };
            run!(self.gpu, blocks("train_adamw", grid(tensor.len));
                after(parameters, tensor.parameter), after(gradients, tensor.gradient),
                after(self.first.address, tensor.first), after(self.second.address, tensor.second),
                tensor.len as i64, update)?;
        }
        self.groups.iter().try_for_each(|group| self.step_group(group, parameters, gradients, update))
    }

    fn step_group(
        &self,
        group: &Group,
        parameters: u64,
        gradients: u64,
        update: Update,
    ) -> Result<(), CudaError> {
        let Group { rows, columns, count, .. } = *group;
        let size = rows * columns;
        let each = |kernel| Launch { grid: [grid(size).min(MOST_OF_MATRIX), count, 1], ..blocks(kernel, 1) };
        let (mut x, mut next) = (self.work.x.address, self.work.next.address);
        let (squares, len) = (self.squares.address, size as i64);
        run!(self.gpu, each("train_momentum");
            x, squares, gradients, self.first.address, group.gradients.address, group.firsts.address, len,
            update.momentum)?;
        run!(self.gpu, each("train_unit"); x, squares, len)?;
        for _ in 0..ITERATIONS {
            self.iterate(group, x, next)?;
            (x, next) = (next, x);
        }
        let rate = update.matrix_rate(rows, columns);
        run!(self.gpu, each("train_move"); parameters, x, group.parameters.address, len, update.kept, rate)
    }

    /// Makes `next` of the matrices `x`: one Newton–Schulz iteration, `a·x + (b·g + c·g²)·x` with g = x·xᵀ for a wide x
    /// and `a·x + x·(b·g + c·g²)` with g = xᵀ·x for a tall one.
    fn iterate(&self, group: &Group, x: u64, next: u64) -> Result<(), CudaError> {
        let Group { rows, columns, count, .. } = *group;
        let (size, side) = (rows * columns, rows.min(columns));
        let is_wide = rows <= columns;
        let [a, b, c] = QUINTIC;
        let (gram, polynomial) = (self.work.gram.address, self.work.polynomial.address);
        let product = |kind, product| launches::product(&self.gpu, kind, self.precision, product, count);
        let (row_bounds, side_bounds) = (group.row_bounds.address, group.side_bounds.address);
        let (b_of_expert, square) = (size as i64, (side * side) as i64);
        if is_wide {
            let of_rows = sized([rows, rows, columns], [columns, columns, side]);
            product(
                Kind::Linear,
                Product { a: x, b: x, c: gram, bounds: row_bounds, b_of_expert, ..of_rows },
            )?;
        } else {
            let of_columns = sized([columns, columns, 0], [columns, columns, side]);
            let bounds = row_bounds;
            product(
                Kind::Weight,
                Product { a: x, b: x, c: gram, bounds, c_of_expert: square, ..of_columns },
            )?;
        }
        self.scaled(polynomial, gram, count * side * side, b)?;
        // The gram matrix is symmetric, so its product with its transpose is its square.
        let squared = Product {
            a: gram,
            b: gram,
            c: polynomial,
            bounds: side_bounds,
            b_of_expert: square,
            scale: c,
            is_added: 1,
            ..sized([side, side, side], [side, side, side])
        };
        product(Kind::Linear, squared)?;
        self.scaled(next, x, count * size, a)?;
        let (left, right, bounds, b_of_expert) = match is_wide {
            true => (polynomial, x, side_bounds, size as i64),
            false => (x, polynomial, row_bounds, square),
        };
        let sizes = sized([rows, columns, side], [side, columns, columns]);
        let last = Product { a: left, b: right, c: next, bounds, b_of_expert, is_added: 1, ..sizes };
        product(Kind::Input, last)
    }

    fn scaled(&self, y: u64, x: u64, count: usize, scale: f32) -> Result<(), CudaError> {
        run!(self.gpu, blocks("train_scaled", grid(count)); y, x, count as i64, scale)
    }
}

/// Returns how many blocks go through so many numbers.
fn grid(count: usize) -> usize {
    count.div_ceil(launches::THREADS * OF_THREAD).clamp(1, MOST_BLOCKS)
}
