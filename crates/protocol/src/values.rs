//! Numbers in memory, or in bytes that lie elsewhere, such as those of a mapped file.

use std::{fmt, ops::Deref};

use bytemuck::Pod;
use bytes::Bytes;

/// Numbers, read-only. A data set may be larger than the memory where they lie in a mapped file.
#[derive(Clone)]
pub struct Values<T>(Place<T>);

#[derive(Clone)]
enum Place<T> {
    Memory(Vec<T>),
    /// Aligned, and a whole number of numbers.
    Bytes(Bytes),
}

impl<T: Pod> Values<T> {
    /// The numbers that these bytes are, where they lie; copied where they aren't aligned.
    #[must_use]
    pub fn of_bytes(bytes: Bytes) -> Self {
        match bytemuck::try_cast_slice::<u8, T>(&bytes) {
            Ok(_) => Self(Place::Bytes(bytes)),
            Err(_) => Self(Place::Memory(bytemuck::pod_collect_to_vec(&bytes))),
        }
    }
}

impl<T: Pod> Deref for Values<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Place::Memory(numbers) => numbers,
            Place::Bytes(bytes) => bytemuck::cast_slice(bytes),
        }
    }
}

impl<T> From<Vec<T>> for Values<T> {
    fn from(numbers: Vec<T>) -> Self {
        Self(Place::Memory(numbers))
    }
}

impl<T> FromIterator<T> for Values<T> {
    fn from_iter<I: IntoIterator<Item = T>>(numbers: I) -> Self {
        Self(Place::Memory(numbers.into_iter().collect()))
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for Values<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Pod + PartialEq> PartialEq for Values<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_wherever_they_lie() {
        let numbers = vec![1.5f32, -2.0, 0.25];
        let bytes = Bytes::copy_from_slice(&[&[0; 8], bytemuck::cast_slice(&numbers), &[0; 8]].concat());
        for from in 0..8 {
            let moved = [&vec![0; from][..], bytemuck::cast_slice(&numbers)].concat();
            assert_eq!(Values::of_bytes(Bytes::from(moved).slice(from..)), Values::from(numbers.clone()));
        }
        let lying = Values::<f32>::of_bytes(bytes.slice(8..20));
        assert_eq!(lying[..], numbers[..]);
        assert_eq!(lying.as_ptr().cast(), bytes[8..].as_ptr());
    }
}
