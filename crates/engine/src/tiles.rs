//! Small products in register tiles: for matrices that fit in cache, where a general product would spend its time on
//! packing.
//!
//! Each element is one sum over `k` from first to last, so its bytes don't depend on the width of the vector units.

use pulp::{Simd, WithSimd};

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
        let mut tiles = Tiles {
            simd,
            k,
            a: self.a.as_ptr(),
            a_strides: self.a_strides,
            b: self.b.as_ptr(),
            b_stride: self.b_stride,
            c: self.c.as_mut_ptr(),
            c_stride: self.c_stride,
            add: self.add,
        };
        let lanes = S::F32_LANES;
        let mut column = 0;
        // SAFETY: the asserts above bound every element of the three matrices; tiles stay within `m` and `n`.
        unsafe {
            while column + 2 * lanes <= n {
                tiles.column::<4, 2>(m, column, 2 * lanes);
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
            while row < m {
                self.tile::<1, VECTORS>(row, column, width);
                row += 1;
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_the_definition_for_every_shape(
            m in 1usize..20, n in 1usize..70, k in 0usize..20, transposed: bool, add: bool, gap in 0usize..5,
        ) {
            let a: Vec<f32> = (0..m * k).map(|i| ((i * 7) % 13) as f32 - 6.0).collect();
            let b: Vec<f32> = (0..k * (n + gap)).map(|i| ((i * 5) % 11) as f32 - 5.0).collect();
            let mut c = vec![1.0; m * (n + gap)];
            let a_strides = if transposed { [1, m] } else { [k, 1] };
            let small = Small {
                size: [m, n, k], a: &a, a_strides, b: &b, b_stride: n + gap, c: &mut c, c_stride: n + gap, add,
            };
            pulp::Arch::new().dispatch(small);
            for r in 0..m {
                for s in 0..n + gap {
                    // Small integers: exact in any order.
                    let sum: f32 =
                        (0..k).map(|i| a[r * a_strides[0] + i * a_strides[1]] * b[i * (n + gap) + s.min(n - 1)]).sum();
                    let right = if s < n { sum + if add { 1.0 } else { 0.0 } } else { 1.0 };
                    prop_assert_eq!(c[r * (n + gap) + s], right);
                }
            }
        }
    }
}
