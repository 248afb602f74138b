//! Images that are changed at random while training (`docs/protocol.md`, section 5).

use outboard_core::job::Augment;

use crate::random::{Domain, Stream};

/// Most changes of a job.
const MOST: u64 = 16;

/// What is done to the images of an epoch.
#[derive(Clone, Copy, Debug)]
pub struct Augmentation<'a> {
    changes: &'a [Augment],
    draws: Stream,
}

impl<'a> Augmentation<'a> {
    /// These changes, in order.
    #[must_use]
    pub fn new(changes: &'a [Augment], seed: u64, epoch: u32) -> Self {
        Self { changes, draws: Stream::new(seed, Domain::Augment, epoch) }
    }

    /// Changes the image of a row of the training set. `image` is `[channels, height, width]`.
    pub fn apply(&self, row: u32, [_, height, width]: [usize; 3], image: &mut [f32]) {
        for (change, j) in self.changes.iter().zip(0..MOST) {
            let draw = self.draws.at(u64::from(row) * MOST + j);
            match change {
                Augment::Flip if draw >> 63 == 1 => {
                    image.chunks_exact_mut(width).for_each(<[f32]>::reverse);
                }
                Augment::Flip => {}
                Augment::Crop(n) | Augment::Shift(n) => {
                    let by = |bits: u64| (bits % (2 * u64::from(*n) + 1)) as isize - *n as isize;
                    let (down, right) = (by(draw >> 32), by(draw & 0xFFFF_FFFF));
                    let edge = matches!(change, Augment::Shift(_));
                    for channel in image.chunks_exact_mut(height * width) {
                        moved(channel, [height, width], [down, right], edge);
                    }
                }
            }
        }
    }
}

/// Moves a channel; what comes in is 0, or what lies at the edge.
fn moved(channel: &mut [f32], [height, width]: [usize; 2], [down, right]: [isize; 2], edge: bool) {
    let old = channel.to_vec();
    let from = |at: usize, by: isize, size: usize| {
        let from = at as isize - by;
        let inside = from.clamp(0, size as isize - 1);
        (edge || inside == from).then_some(inside as usize)
    };
    for (i, to) in channel.iter_mut().enumerate() {
        let place = from(i / width, down, height).zip(from(i % width, right, width));
        *to = place.map_or(0.0, |(row, column)| old[row * width + column]);
    }
}
