//! Numbered random streams: the only source of randomness in GaFi.
//!
//! A stream is named, not advanced. The random numbers of sample 1,234 of class 7 come from the stream of that name, and are
//! the same whatever was drawn before, in any batch, thread or process. So a resumed run equals an uninterrupted one, and
//! renewals of a synthetic set never repeat a latent (the paper's released program reseeds with one of 10,000 values, and may
//! repeat one).

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The generator behind a stream: ChaCha with 8 rounds, 2^64 blocks long, the same on every platform.
pub type StreamRng = ChaCha8Rng;

/// A named position in a tree of random streams.
///
/// ```
/// use gafi_core::Stream;
/// use rand::Rng;
/// let latents = Stream::new(7).child("latent").at(3); // class 3
/// let a: u64 = latents.at(1234).rng().next_u64(); // sample 1,234
/// let b: u64 = latents.at(1234).rng().next_u64();
/// assert_eq!(a, b);
/// assert_ne!(a, latents.at(1235).rng().next_u64());
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stream([u8; 32]);

impl Stream {
    /// The root of all streams of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(blake3::derive_key("GaFi 2026 numbered random streams, root", &seed.to_le_bytes()))
    }

    /// The sub-stream called `name`.
    pub fn child(&self, name: &str) -> Self {
        self.derive(b'n', name.as_bytes())
    }

    /// The sub-stream with number `index`.
    pub fn at(&self, index: u64) -> Self {
        self.derive(b'i', &index.to_le_bytes())
    }

    /// A generator at the start of this stream.
    pub fn rng(&self) -> StreamRng {
        ChaCha8Rng::from_seed(self.0)
    }

    /// A 64-bit seed derived from this stream, for configurations.
    pub fn seed(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    fn derive(&self, tag: u8, data: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&[tag]);
        hasher.update(data);
        Self(*hasher.finalize().as_bytes())
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({:016x})", self.seed())
    }
}

/// Shuffles `0..n` (Fisher-Yates) with the numbers of `stream`.
pub fn permutation(n: usize, stream: &Stream) -> Vec<usize> {
    let mut rng = stream.rng();
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, below(&mut rng, i as u64 + 1) as usize);
    }
    order
}

/// A uniform number in `0..n` (Lemire's multiply-shift; the bias is below n / 2^64). `n` of 0 gives 0.
pub fn below(rng: &mut StreamRng, n: u64) -> u64 {
    ((u128::from(rng.next_u64()) * u128::from(n)) >> 64) as u64
}

/// A uniform number in [0, 1) with 24 random bits.
pub fn unit_f32(rng: &mut StreamRng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_never_change() {
        // If this changes, every result changes: raise the revision of every stage. `tests/goldens` has more of them.
        assert_eq!(format!("{:?}", Stream::new(0)), "Stream(dcf2069d7dbd6ea5)");
    }

    #[test]
    fn names_and_numbers_do_not_collide() {
        let root = Stream::new(1);
        assert_ne!(root.child("a"), root.at(u64::from(b'a')));
        assert_ne!(root.child("ab"), root.child("a").child("b"));
        assert_ne!(root.at(1).at(2), root.at(2).at(1));
    }

    #[test]
    fn permutation_holds_each_once_and_is_uniform() {
        let mut counts = [[0usize; 5]; 5];
        for i in 0..5000 {
            let p = permutation(5, &Stream::new(2).at(i));
            let mut sorted = p.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4]);
            for (at, v) in p.into_iter().enumerate() {
                counts[at][v] += 1;
            }
        }
        for c in counts.iter().flatten() {
            assert!((800..1200).contains(c), "expected about 1000, got {c}");
        }
    }

    #[test]
    fn below_and_unit_stay_in_range() {
        let mut rng = Stream::new(3).rng();
        let mut top = 0.0f32;
        for _ in 0..10_000 {
            assert!(below(&mut rng, 3) < 3);
            let u = unit_f32(&mut rng);
            assert!((0.0..1.0).contains(&u));
            top = top.max(u);
        }
        assert!(top > 0.99);
    }
}
