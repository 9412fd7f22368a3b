//! Images padded with zeros.

use super::element::Element;
use super::view::{ImagePre, Tiles, read};
use crate::simd::Level;

/// An image with zeros around it: position (r, c) of the frame is (r - top, c - left) of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) top: usize,
    pub(super) left: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Frame {
    /// Whether an image of this size needs no padding.
    pub(super) fn is_tight(&self, h: usize, w: usize) -> bool {
        *self == Frame { top: 0, left: 0, rows: h, cols: w }
    }

    /// Reads the image (h, w, channels) through `pre` into `to` (rows, cols, channels), cropped to the frame.
    pub(super) fn fill<E: Element>(
        &self,
        level: Level,
        image: &[E],
        (h, w, channels): (usize, usize, usize),
        pre: ImagePre<'_>,
        to: &mut [f32],
    ) {
        let pitch = self.cols * channels;
        let height = self.rows.saturating_sub(self.top).min(h);
        let width = self.cols.saturating_sub(self.left).min(w) * channels;
        let left = self.left * channels;
        let mut tiles = Tiles::default();
        // Once for all rows.
        let pre = pre.tiled(&mut tiles);
        to[..self.top * pitch].fill(0.0);
        for (r, row) in to[self.top * pitch..self.rows * pitch].chunks_exact_mut(pitch).enumerate() {
            if r >= height {
                row.fill(0.0);
                continue;
            }
            row[..left].fill(0.0);
            row[left + width..].fill(0.0);
            read(level, &image[r * w * channels..][..width], pre, &mut row[left..left + width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;

    #[test]
    fn frames_are_filled_and_cropped() {
        let image: Vec<f32> = (1..=12).map(|v| v as f32).collect();
        let frame = Frame { top: 1, left: 1, rows: 3, cols: 4 };
        let mut out = vec![9.0; 24];
        frame.fill(Level::Portable, &image, (3, 2, 2), ImagePre::Activation(Activation::RELU), &mut out);
        #[rustfmt::skip]
        assert_eq!(out, [
            0., 0., 0., 0., 0., 0., 0., 0.,
            0., 0., 1., 2., 3., 4., 0., 0.,
            0., 0., 5., 6., 7., 8., 0., 0.,
        ]);
        assert!(Frame { top: 0, left: 0, rows: 3, cols: 2 }.is_tight(3, 2) && !frame.is_tight(3, 4));
    }
}
