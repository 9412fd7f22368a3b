//! How the values of an image lie in a tensor: flat or not, channels first or last.

use gafi_core::{Error, ImageSpec, Result};

use crate::config::Layout;

/// An image of a tensor whose rows have a given shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrangement {
    pub(crate) image: ImageSpec,
    layout: Layout,
    /// What was guessed: a tensor (N, C, H, W) needs no guess.
    pub(crate) guess: Option<String>,
    /// Values of `layout` and `shape` that give the same arrangement without a guess; `None` for a tensor (N, C, H, W).
    pub(crate) explicit: (Option<Layout>, Option<[usize; 3]>),
}

impl Arrangement {
    /// The only reading of the shape `row` as an image that `layout` and `shape` (C, H, W) allow; of (N, 3, H, 3) and flat images with
    /// three channels, the one with channels first. `key` names the tensor in errors.
    ///
    /// # Errors
    /// [`Error::Config`] without such a reading.
    pub(crate) fn of(row: &[usize], layout: Option<Layout>, shape: Option<[usize; 3]>, key: &str) -> Result<Self> {
        let wrong = |key: &str, value: String, expected: String| Err(Error::config(key, value, expected));
        let shown = format!("(N, {})", row.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
        let is_image = |[channels, height, width]: [usize; 3]| matches!(channels, 1 | 3) && height > 0 && width > 0;
        let size = row.iter().product::<usize>();
        let flat = |layout: Option<Layout>| layout.unwrap_or(Layout::Nchw);
        if let Some(shape @ [channels, height, width]) = shape {
            let volume = [channels, height, width].iter().try_fold(1usize, |n, side| n.checked_mul(*side));
            if !is_image(shape) || volume != Some(size) {
                let expected = format!("[channels, height, width] of {key} {shown}, with 1 or 3 channels");
                return wrong("shape", format!("{shape:?}"), expected);
            }
            let last = row == [height, width, channels] && row != [channels, height, width];
            let layout = layout.unwrap_or(if last { Layout::Nhwc } else { Layout::Nchw });
            return Ok(Self::made(shape, layout, row, None));
        }
        let side = |area: usize| Some(area.isqrt()).filter(|side| side * side == area && *side > 0);
        let (shape, layout, needs_guess) = match *row {
            [a, b, c] => match (layout, is_image([a, b, c]), is_image([c, a, b])) {
                (None | Some(Layout::Nchw), true, _) => ([a, b, c], Layout::Nchw, false),
                (None, false, true) => ([c, a, b], Layout::Nhwc, true),
                (Some(Layout::Nhwc), _, true) => ([c, a, b], Layout::Nhwc, false),
                (Some(layout), ..) => {
                    let expected = format!("a layout in which {key} {shown} has 1 or 3 channels");
                    return wrong("layout", layout.to_string(), expected);
                }
                (None, false, false) => {
                    let expected = "images (N, C, H, W) with 1 or 3 channels; set layout = \"nhwc\" for (N, H, W, C), or shape for another one";
                    return wrong(key, shown, expected.into());
                }
            },
            [height, width] if height > 1 && width > 1 => ([1, height, width], flat(layout), true),
            [size] | [1, size] | [size, 1] => match (side(size), side(size / 3).filter(|_| size.is_multiple_of(3))) {
                (Some(side), _) => ([1, side, side], flat(layout), true),
                (None, Some(side)) => ([3, side, side], flat(layout), true),
                (None, None) => {
                    let expected = "images (N, C, H, W); or set `shape` = [channels, height, width], because a flat row \
                                of this length is not a square image";
                    return wrong(key, shown, expected.into());
                }
            },
            _ => {
                let expected = "images (N, C, H, W), (N, H, W, C), (N, H, W) or (N, values)";
                return wrong(key, shown, expected.into());
            }
        };
        let [channels, height, width] = shape;
        let order = match (channels, layout) {
            (1, _) => "",
            (_, Layout::Nhwc) => ", channels last",
            (_, Layout::Nchw) => ", channels first",
        };
        let guess = format!("{key} {shown}: read as {channels}x{height}x{width}{order}");
        Ok(Self::made(shape, layout, row, needs_guess.then_some(guess)))
    }

    fn made(shape: [usize; 3], layout: Layout, row: &[usize], guess: Option<String>) -> Self {
        let [channels, height, width] = shape;
        // Both layouts are one if there is one channel, as the bytes are the same.
        let layout = if channels == 1 { Layout::Nchw } else { layout };
        let plain = layout == Layout::Nchw && row == shape;
        let explicit = if plain { (None, None) } else { (Some(layout), Some(shape)) };
        Self { image: ImageSpec::new(channels, height, width), layout, guess, explicit }
    }

    /// The values of an image, channels first.
    pub(crate) fn channels_first(&self, values: Vec<f32>) -> Vec<f32> {
        if self.layout == Layout::Nchw {
            return values;
        }
        let channels = self.image.channels;
        (0..channels).flat_map(|channel| values.iter().skip(channel).step_by(channels)).copied().collect()
    }

    /// The inverse of [`Arrangement::channels_first`].
    pub(crate) fn arranged(&self, values: Vec<f32>) -> Vec<f32> {
        if self.layout == Layout::Nchw {
            return values;
        }
        let plane = self.image.height * self.image.width;
        (0..plane).flat_map(|pixel| values.iter().skip(pixel).step_by(plane)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_with_one_reading_are_guessed() {
        let of = |row: &[usize], layout, shape| {
            let found = Arrangement::of(row, layout, shape, "images")?;
            Ok::<_, Error>((found.image.to_string(), found.layout, found.guess.is_some()))
        };
        let (first, last) = (Layout::Nchw, Layout::Nhwc);
        for (row, layout, shape, expected) in [
            (&[3, 8, 9][..], None, None, ("3x8x9", first, false)),
            (&[8, 9, 3], None, None, ("3x8x9", last, true)),
            (&[8, 9, 3], Some(last), None, ("3x8x9", last, false)),
            (&[3, 8, 3], None, None, ("3x8x3", first, false)),
            (&[3, 8, 3], Some(last), None, ("3x3x8", last, false)),
            (&[8, 9, 1], None, None, ("1x8x9", first, true)),
            (&[8, 9], None, None, ("1x8x9", first, true)),
            (&[784], None, None, ("1x28x28", first, true)),
            (&[1, 784], None, None, ("1x28x28", first, true)),
            (&[3072], None, None, ("3x32x32", first, true)),
            (&[3072], Some(last), None, ("3x32x32", last, true)),
            (&[12], None, Some([1, 3, 4]), ("1x3x4", first, false)),
            (&[2, 2, 3], None, Some([3, 2, 2]), ("3x2x2", last, false)),
        ] {
            let (image, layout_found, guessed) = of(row, layout, shape).unwrap();
            assert_eq!((&image[..], layout_found, guessed), expected, "{row:?} {layout:?} {shape:?}");
        }
        for (row, layout, shape, part) in [
            (&[4, 8, 8][..], None, None, "images (N, C, H, W) with 1 or 3 channels"),
            (&[3, 8, 8], Some(last), None, "layout = nhwc: expected a layout in which images (N, 3, 8, 8)"),
            (&[10], None, None, "`shape` = [channels, height, width]"),
            (
                &[784],
                None,
                Some([1, 28, 27]),
                "shape = [1, 28, 27]: expected [channels, height, width] of images (N, 784)",
            ),
            (&[784], None, Some([2, 14, 28]), "with 1 or 3 channels"),
            (&[2, 2, 2, 2], None, None, "(N, H, W, C)"),
        ] {
            let error = of(row, layout, shape).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_is_explicit_gives_the_same_arrangement() {
        for row in [&[3, 8, 9][..], &[8, 9, 3], &[8, 9, 1], &[28, 28], &[784], &[3072]] {
            let guessed = Arrangement::of(row, None, None, "images").unwrap();
            let (layout, shape) = guessed.explicit;
            let again = Arrangement::of(row, layout, shape, "images").unwrap();
            assert_eq!(again, Arrangement { guess: None, ..guessed });
        }
    }

    #[test]
    fn channels_move() {
        let found = Arrangement::of(&[2, 1, 3], None, None, "images").unwrap();
        let first = [0.0, 3.0, 1.0, 4.0, 2.0, 5.0];
        assert_eq!(found.channels_first((0..6).map(|v| v as f32).collect()), first);
        assert_eq!(found.arranged(first.to_vec()), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }
}
