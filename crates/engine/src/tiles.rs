//! Small products in register tiles: for matrices that fit in cache, where a general product would spend its time on
//! packing.
//!
//! [`Panels`] is a matrix that many of them have in common, laid out once so that tiles read it front to back.
//!
//! Each element is a sum over `k` from first to last, in parts of 256, so its bytes don't depend on the width of the vector units.

use pulp::{Simd, WithSimd};

use crate::matmul::Matrix;

/// `c = a b`, or `c += a b`. Rows of `b` and `c` are contiguous; `a` may lie in any way.
#[derive(Debug)]
pub(crate) struct Small<'a> {
    /// Rows of `a` and `c`, columns of `b` and `c`, columns of `a` and rows of `b`.
    pub(crate) size: [usize; 3],
    pub(crate) a: &'a [f32],
    /// From one row of `a` to the next, from one column to the next.
    pub(crate) a_strides: [usize; 2],
    pub(crate) b: &'a [f32],
    /// From one row of `b` to the next.
    pub(crate) b_stride: usize,
    pub(crate) c: &'a mut [f32],
    /// From one row of `c` to the next.
    pub(crate) c_stride: usize,
    /// Whether `c` is added to.
    pub(crate) add: bool,
}

impl WithSimd for Small<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [m, n, k] = self.size;
        if m == 0 || n == 0 {
            return;
        }
        assert!(n <= self.b_stride && (k == 0 || (k - 1) * self.b_stride + n <= self.b.len()));
        assert!((m - 1) * self.c_stride + n <= self.c.len() && n <= self.c_stride);
        assert!(k == 0 || (m - 1) * self.a_strides[0] + (k - 1) * self.a_strides[1] < self.a.len());
        let lanes = S::F32_LANES;
        for from in (0..k.max(1)).step_by(DEPTH) {
            let mut tiles = Tiles {
                simd,
                k: DEPTH.min(k - from),
                // Within `a`, or unused.
                a: self.a.as_ptr().wrapping_add(from * self.a_strides[1]),
                a_strides: self.a_strides,
                b: self.b.as_ptr().wrapping_add(from * self.b_stride),
                b_stride: self.b_stride,
                c: self.c.as_mut_ptr(),
                c_stride: self.c_stride,
                add: self.add || from > 0,
            };
            let mut column = 0;
            // SAFETY: the asserts above bound every element of the three matrices; tiles stay within `m`, `n` and `k`.
            unsafe {
                while column + 2 * lanes <= n {
                    // As many sums as registers hold beside their factors.
                    match S::REGISTER_COUNT >= 32 {
                        true => tiles.column::<8, 2>(m, column, 2 * lanes),
                        false => tiles.column::<4, 2>(m, column, 2 * lanes),
                    }
                    column += 2 * lanes;
                }
                while column + lanes <= n {
                    tiles.column::<8, 1>(m, column, lanes);
                    column += lanes;
                }
                if column < n {
                    tiles.column::<8, 1>(m, column, n - column);
                }
            }
        }
    }
}

/// Terms of a sum that are added up in registers before they go to `c`: what columns of `b` keep in the first cache.
const DEPTH: usize = 256;

/// Columns of a panel: two of the widest vectors.
const PANEL: usize = 32;

/// A matrix cut into panels of some columns, each row-major by itself.
#[derive(Debug, Default)]
pub(crate) struct Panels {
    data: Vec<f32>,
    rows: usize,
    cols: usize,
}

impl Panels {
    /// Takes over the elements of a matrix.
    pub(crate) fn fill(&mut self, matrix: Matrix<'_>) {
        let [rows, cols] = matrix.size();
        (self.rows, self.cols) = (rows, cols);
        self.data.resize(cols.div_ceil(PANEL) * PANEL * rows, 0.0);
        for (panel, to) in self.data.chunks_exact_mut(PANEL * rows).enumerate() {
            let columns = matrix.columns(panel * PANEL, PANEL.min(cols - panel * PANEL));
            columns.copy_rows(to, PANEL);
        }
    }

    /// `c = a b` or `c += a b`, this being `b`; rows of `a` and `c` are contiguous and lie `strides` apart.
    pub(crate) fn multiply(&self, rows: usize, a: &[f32], c: &mut [f32], strides: [usize; 2], add: bool) {
        pulp::Arch::new().dispatch(PanelProduct { panels: self, rows, a, c, strides, add });
    }
}

struct PanelProduct<'a> {
    panels: &'a Panels,
    rows: usize,
    a: &'a [f32],
    c: &'a mut [f32],
    strides: [usize; 2],
    add: bool,
}

impl WithSimd for PanelProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Panels { data, rows, cols } = self.panels;
        for (index, panel) in data.chunks_exact(PANEL * rows).enumerate() {
            Small {
                size: [self.rows, PANEL.min(cols - index * PANEL), *rows],
                a: self.a,
                a_strides: [self.strides[0], 1],
                b: panel,
                b_stride: PANEL,
                c: &mut self.c[index * PANEL..],
                c_stride: self.strides[1],
                add: self.add,
            }
            .with_simd(simd);
        }
    }
}

/// `to` holds as rows the columns of `from`, whose rows lie `stride` apart.
#[inline(always)]
pub(crate) fn transpose(from: &[f32], stride: usize, [rows, cols]: [usize; 2], to: &mut [f32]) {
    const BLOCK: usize = 4;
    let [whole_rows, whole_cols] = [rows, cols].map(|size| size / BLOCK * BLOCK);
    for row in (0..whole_rows).step_by(BLOCK) {
        for col in (0..whole_cols).step_by(BLOCK) {
            let mut block = [[0.0; BLOCK]; BLOCK];
            for (r, line) in block.iter_mut().enumerate() {
                line.copy_from_slice(&from[(row + r) * stride + col..][..BLOCK]);
            }
            for c in 0..BLOCK {
                to[(col + c) * rows + row..][..BLOCK].copy_from_slice(&block.map(|line| line[c]));
            }
        }
        for col in whole_cols..cols {
            (row..row + BLOCK).for_each(|row| to[col * rows + row] = from[row * stride + col]);
        }
    }
    for row in whole_rows..rows {
        (0..cols).for_each(|col| to[col * rows + row] = from[row * stride + col]);
    }
}

struct Tiles<S> {
    simd: S,
    k: usize,
    a: *const f32,
    a_strides: [usize; 2],
    b: *const f32,
    b_stride: usize,
    c: *mut f32,
    c_stride: usize,
    add: bool,
}

impl<S: Simd> Tiles<S> {
    /// All rows of `width` columns.
    ///
    /// # Safety
    /// They must lie within the matrices.
    #[inline(always)]
    unsafe fn column<const ROWS: usize, const VECTORS: usize>(&mut self, m: usize, column: usize, width: usize) {
        let mut row = 0;
        // SAFETY: as promised by the caller.
        unsafe {
            while row + ROWS <= m {
                self.tile::<ROWS, VECTORS>(row, column, width);
                row += ROWS;
            }
            if row + 4 <= m {
                self.tile::<4, VECTORS>(row, column, width);
                row += 4;
            }
            // Together, or each row would wait for its own sums.
            match m - row {
                3 => self.tile::<3, VECTORS>(row, column, width),
                2 => self.tile::<2, VECTORS>(row, column, width),
                1 => self.tile::<1, VECTORS>(row, column, width),
                _ => {}
            }
        }
    }

    /// # Safety
    /// The tile must lie within the matrices.
    #[inline(always)]
    unsafe fn tile<const ROWS: usize, const VECTORS: usize>(&mut self, row: usize, column: usize, width: usize) {
        let (simd, lanes) = (self.simd, S::F32_LANES);
        let is_whole = width == VECTORS * lanes;
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        // SAFETY: the caller promises that `ROWS` rows and `width` columns from here on are there.
        unsafe {
            let mut a = self.a.add(row * self.a_strides[0]);
            let mut b = self.b.add(column);
            for _ in 0..self.k {
                let mut vectors = [simd.splat_f32s(0.0); VECTORS];
                for (i, vector) in vectors.iter_mut().enumerate() {
                    *vector = match is_whole {
                        true => b.add(i * lanes).cast::<S::f32s>().read_unaligned(),
                        false => simd.partial_load_f32s(std::slice::from_raw_parts(b, width)),
                    };
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let factor = simd.splat_f32s(*a.add(r * self.a_strides[0]));
                    for (sum, vector) in sums.iter_mut().zip(vectors) {
                        *sum = simd.mul_add_f32s(factor, vector, *sum);
                    }
                }
                a = a.wrapping_add(self.a_strides[1]);
                b = b.wrapping_add(self.b_stride);
            }
            for (r, sums) in sums.iter().enumerate() {
                let c = self.c.add((row + r) * self.c_stride + column);
                for (i, &sum) in sums.iter().enumerate() {
                    match is_whole {
                        true => {
                            let place = c.add(i * lanes).cast::<S::f32s>();
                            let old = if self.add { place.read_unaligned() } else { simd.splat_f32s(0.0) };
                            place.write_unaligned(if self.add { simd.add_f32s(old, sum) } else { sum });
                        }
                        false => {
                            let place = std::slice::from_raw_parts_mut(c, width);
                            let old = simd.partial_load_f32s(place);
                            simd.partial_store_f32s(place, if self.add { simd.add_f32s(old, sum) } else { sum });
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// On this CPU's best vector units, and without any.
    fn on_all(run: impl Fn(bool)) {
        [false, true].into_iter().for_each(run);
    }

    fn dispatch(small: Small<'_>, portable: bool) {
        match portable {
            true => small.with_simd(pulp::Scalar::new()),
            false => pulp::Arch::new().dispatch(small),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn panels_agree_with_the_whole_matrix(m in 1usize..20, n in 1usize..70, k in 1usize..20, transposed: bool) {
            let a: Vec<f32> = (0..m * k).map(|i| ((i * 7) % 13) as f32 - 6.0).collect();
            let b: Vec<f32> = (0..k * n).map(|i| ((i * 5) % 11) as f32 - 5.0).collect();
            let matrix = if transposed { Matrix::new(&b, n, k).transposed() } else { Matrix::new(&b, k, n) };
            let mut right = vec![0.0; m * n];
            crate::matmul::product_here(&mut right, Matrix::new(&a, m, k), matrix);
            let mut panels = Panels::default();
            panels.fill(Matrix::new(&a, m, k));
            panels.fill(matrix);
            let mut c = vec![f32::NAN; m * n];
            panels.multiply(m, &a, &mut c, [k, n], false);
            prop_assert_eq!(&c, &right);
            panels.multiply(m, &a, &mut c, [k, n], true);
            prop_assert!(c.iter().zip(&right).all(|(c, right)| *c == 2.0 * right));
        }

        #[test]
        fn agrees_with_the_definition_for_every_shape(
            m in 1usize..20, n in 1usize..70, few in 0usize..20, long: bool, transposed: bool, add: bool, gap in 0usize..5,
        ) {
            let k = few + if long { 500 } else { 0 };
            let a: Vec<f32> = (0..m * k).map(|i| ((i * 7) % 13) as f32 - 6.0).collect();
            let b: Vec<f32> = (0..k * (n + gap)).map(|i| ((i * 5) % 11) as f32 - 5.0).collect();
            let a_strides = if transposed { [1, m] } else { [k, 1] };
            on_all(|portable| {
                let mut c = vec![1.0; m * (n + gap)];
                let small = Small {
                    size: [m, n, k], a: &a, a_strides, b: &b, b_stride: n + gap, c: &mut c, c_stride: n + gap, add,
                };
                dispatch(small, portable);
                for r in 0..m {
                    for s in 0..n + gap {
                        // Small integers: exact in any order.
                        let term = |i: usize| a[r * a_strides[0] + i * a_strides[1]] * b[i * (n + gap) + s.min(n - 1)];
                        let sum: f32 = (0..k).map(term).sum();
                        let right = if s < n { sum + if add { 1.0 } else { 0.0 } } else { 1.0 };
                        assert_eq!(c[r * (n + gap) + s], right, "portable: {portable}");
                    }
                }
            });
        }
    }
}
