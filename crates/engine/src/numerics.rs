//! The class within which bytes are equal.

use std::sync::OnceLock;

use outboard_core::Digest;

use crate::matmul::{Matrix, add_product_here, product_here};

/// The numerics class of this engine on this CPU: name, version, vector units, and a fingerprint of some products,
/// since `gemm` picks its kernels and its blocking from the CPU. Two machines of one class give the same bytes; across
/// classes the curve is the same within the gates of the protocol.
#[must_use]
pub fn class() -> &'static str {
    static CLASS: OnceLock<String> = OnceLock::new();
    CLASS.get_or_init(|| {
        // Long sums show the blocking, odd sizes the kernels' edges.
        let mut bytes = Vec::new();
        for (m, n, k) in [(64, 64, 3000), (64, 64, 784), (33, 17, 513), (64, 10, 128), (5, 3, 7)] {
            let data: Vec<f32> = (0..k * m.max(n)).map(|i| ((i * 193) % 1009) as f32 / 504.0 - 1.0).collect();
            let mut c = vec![0.0; m * n];
            let (a, b) = (Matrix::new(&data[..m * k], m, k), Matrix::new(&data[..k * n], n, k).transposed());
            product_here(&mut c, a, b);
            add_product_here(&mut c, a, Matrix::new(&data[..k * n], k, n));
            c.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
        }
        let fingerprint = &Digest::of(&bytes).to_string()[..8];
        format!("outboard-engine {} {} {fingerprint}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH)
    })
}
