//! Matrix products by tiles of a fixed size.
//!
//! A tile is computed whole by one thread and its size depends on the shapes alone, so the bytes of a product don't
//! depend on the number of threads. Tiles of 64 columns cost no throughput against whole products (measured with
//! `gemm` 0.19: 78 GFLOP/s for 64x64x784 and for 64x256x784 on one core), while splitting rows does.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::{simd::simd, tiles::Small};

/// Rows and columns of a tile.
const TILE: usize = 64;

/// Below this many multiply-adds a product isn't worth a second thread.
const SERIAL: usize = 1 << 17;

/// A matrix in a slice, row-major or its transpose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix that fills `data`.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} x {cols} matrix");
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The same elements with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Rows and columns.
    pub(crate) fn size(self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Copies the elements to rows that lie `stride` apart.
    pub(crate) fn copy_rows(self, to: &mut [f32], stride: usize) {
        for (row, to) in to.chunks_mut(stride).take(self.rows).enumerate() {
            let from = &self.data[row * self.row_stride..];
            match self.col_stride {
                1 => to[..self.cols].copy_from_slice(&from[..self.cols]),
                step => to[..self.cols].iter_mut().zip(from.iter().step_by(step)).for_each(|(to, x)| *to = *x),
            }
        }
    }

    /// `sums[c]` = sum of column `c`. The matrix must be row-major.
    pub(crate) fn sum_rows(self, sums: &mut [f32]) {
        sums.fill(0.0);
        self.add_rows(sums);
    }

    /// `sums[c] +=` sum of column `c`. The matrix must be row-major.
    pub(crate) fn add_rows(self, sums: &mut [f32]) {
        assert!(self.col_stride == 1 && self.row_stride == self.cols && sums.len() == self.cols);
        in_parts(self.data, self.cols, sums, |rows, sums| {
            for row in rows.chunks_exact(sums.len()) {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
        });
    }

    /// Columns `first .. first + count`.
    pub(crate) fn columns(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.cols);
        Self { data: &self.data[(first * self.col_stride).min(self.data.len())..], cols: count, ..self }
    }
}

/// Columns that lie a multiple of so many elements apart share a few sets of the first cache, and drive each other out while
/// they are packed side by side.
const CROWDED: usize = 512;

thread_local! {
    /// Columns that were copied apart.
    static SPREAD: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Matrix<'_> {
    /// Calls `with` on the same matrix, of which crowded columns were copied to where they have sets of their own.
    fn spread(self, with: impl FnOnce(Matrix<'_>)) {
        if self.row_stride != 1 || self.cols == 1 || !self.col_stride.is_multiple_of(CROWDED) {
            return with(self);
        }
        // A cache line more than a multiple of what is crowded is enough.
        let col_stride = self.rows.next_multiple_of(CROWDED) + 16;
        SPREAD.with_borrow_mut(|copy| {
            copy.resize(copy.len().max(col_stride * self.cols), 0.0);
            self.transposed().copy_rows(copy, col_stride);
            with(Matrix { data: copy, col_stride, ..self });
        });
    }
}

/// Rows that are added up by themselves: the rounding error of a long sum grows with its length.
const ROWS: usize = 64;

/// Adds to `sums` what `add` makes of some rows at a time, compiled for vector units.
#[inline(always)]
pub(crate) fn in_parts(data: &[f32], cols: usize, sums: &mut [f32], add: impl Fn(&[f32], &mut [f32])) {
    simd(
        #[inline(always)]
        || {
            if data.len() <= ROWS * cols {
                return add(data, sums);
            }
            let mut part = vec![0.0; sums.len()];
            for rows in data.chunks(ROWS * cols) {
                part.fill(0.0);
                add(rows, &mut part);
                sums.iter_mut().zip(&part).for_each(|(sum, x)| *sum += x);
            }
        },
    );
}

/// `c = a b`, row-major; then `finish(row, first_column, elements)` for each row of each tile, while it is in cache.
pub(crate) fn product<F>(c: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, finish: F)
where
    F: Fn(usize, usize, &mut [f32]) + Sync,
{
    let (m, n) = (a.rows, b.cols);
    assert_eq!(c.len(), m * n, "the product is {m} x {n}");
    let across = n.div_ceil(TILE);
    let tiles = m.div_ceil(TILE) * across;
    let out = Shared(c.as_mut_ptr());
    let tile = |index: usize| {
        let (row, col) = (index / across * TILE, index % across * TILE);
        let (rows, cols) = (TILE.min(m - row), TILE.min(n - col));
        let a = Matrix { data: &a.data[row * a.row_stride..], rows, ..a };
        let b = b.columns(col, cols);
        // SAFETY: tiles don't overlap, each is visited once, and `c` outlives the loop below.
        let rows = unsafe { Tile::new(out.get().add(row * n + col), rows, cols, n) };
        b.spread(|b| rows.fill(a, b));
        simd(
            #[inline(always)]
            || rows.for_each(|r, elements| finish(row + r, col, elements)),
        );
    };
    if tiles == 1 || m * n * a.cols < SERIAL {
        (0..tiles).for_each(tile);
    } else {
        (0..tiles).into_par_iter().with_max_len(1).for_each(tile);
    }
}

/// `c = a b`, row-major, on this thread.
pub(crate) fn product_here(c: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    whole(c, a, b).fill(a, b);
}

/// `c += a b`, row-major, on this thread.
pub(crate) fn add_product_here(c: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    if b.col_stride == 1 && b.cols <= SHORT {
        assert_eq!(c.len(), a.rows * b.cols);
        let (size, a_strides) = ([a.rows, b.cols, a.cols], [a.row_stride, a.col_stride]);
        let (b_stride, c_stride) = (b.row_stride, b.cols);
        let (a, b) = (a.data, b.data);
        return pulp::Arch::new().dispatch(Small { size, a, a_strides, b, b_stride, c, c_stride, add: true });
    }
    whole(c, a, b).compute(a, b, true);
}

/// Rows up to this long stay in cache as they are; longer ones are packed first.
const SHORT: usize = 512;

/// All of `c` as one tile. What it points to must not outlive the borrow of `c`.
fn whole(c: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) -> Tile {
    assert_eq!(c.len(), a.rows * b.cols);
    // SAFETY: the tile is the whole of `c`, which the callers borrow for as long as they use it.
    unsafe { Tile::new(c.as_mut_ptr(), a.rows, b.cols, b.cols) }
}

struct Shared(*mut f32);

// SAFETY: threads write through it to tiles that don't overlap.
unsafe impl Sync for Shared {}

impl Shared {
    fn get(&self) -> *mut f32 {
        self.0
    }
}

/// Part of a row-major matrix, held by one thread.
struct Tile {
    first: *mut f32,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl Tile {
    /// # Safety
    /// For as long as the tile lives, its elements must be valid and reached by nothing else.
    unsafe fn new(first: *mut f32, rows: usize, cols: usize, stride: usize) -> Self {
        Self { first, rows, cols, stride }
    }

    /// `tile = a b`.
    fn fill(&self, a: Matrix<'_>, b: Matrix<'_>) {
        self.compute(a, b, false);
    }

    /// `tile = a b`, or `tile += a b`.
    fn compute(&self, a: Matrix<'_>, b: Matrix<'_>, add: bool) {
        let (m, n, k) = (self.rows, self.cols, a.cols);
        assert!(a.rows == m && b.cols == n && b.rows == k && k > 0);
        let last = |x: Matrix<'_>| (x.rows - 1) * x.row_stride + (x.cols - 1) * x.col_stride;
        assert!(last(a) < a.data.len() && last(b) < b.data.len());
        // SAFETY: the asserts above bound every element that is read; `new` promised those that are written.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                self.first,
                1,
                self.stride as isize,
                add,
                a.data.as_ptr(),
                a.col_stride as isize,
                a.row_stride as isize,
                b.data.as_ptr(),
                b.col_stride as isize,
                b.row_stride as isize,
                if add { 1.0 } else { 0.0 },
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }

    #[inline(always)]
    fn for_each(&self, f: impl Fn(usize, &mut [f32])) {
        for r in 0..self.rows {
            // SAFETY: `new` promised that this row of the tile is ours.
            f(r, unsafe { std::slice::from_raw_parts_mut(self.first.add(r * self.stride), self.cols) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_the_definition_for_every_shape_and_layout(
            m in 1usize..150, n in 1usize..150, few in 1usize..40, crowded: bool, ta: bool, tb: bool,
        ) {
            let k = if crowded { CROWDED } else { few };
            let a: Vec<f32> = (0..m * k).map(|i| ((i * 7) % 13) as f32 - 6.0).collect();
            let b: Vec<f32> = (0..k * n).map(|i| ((i * 5) % 11) as f32 - 5.0).collect();
            let view = |data, rows, cols, t| if t { Matrix::new(data, cols, rows).transposed() } else { Matrix::new(data, rows, cols) };
            let (a, b) = (view(&a, m, k, ta), view(&b, k, n, tb));
            let at = |x: Matrix<'_>, r: usize, c: usize| x.data[r * x.row_stride + c * x.col_stride];
            let mut c = vec![f32::NAN; m * n];
            product(&mut c, a, b, |_, _, row| row.iter_mut().for_each(|v| *v += 1.0));
            let mut here = vec![f32::NAN; m * n];
            product_here(&mut here, a, b);
            for r in 0..m {
                for s in 0..n {
                    // Small integers: exact in any order.
                    let right: f32 = (0..k).map(|i| at(a, r, i) * at(b, i, s)).sum();
                    prop_assert_eq!(c[r * n + s], right + 1.0);
                    prop_assert_eq!(here[r * n + s], right);
                }
            }
        }
    }
}
