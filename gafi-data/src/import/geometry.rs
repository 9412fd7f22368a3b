//! Converts images of any size and colour to the one shape of a dataset.

use gafi_core::{Error, ImageSpec, Result};
use serde::{Deserialize, Serialize};

use crate::source::{MAX_SIDE, Pixels};

/// How images of another size are converted to the configured size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Centred and padded with zeros; an odd row or column of zeros goes to the bottom or right. The paper pads Fashion-MNIST
    /// from 28 to 32 pixels this way. A larger image is an error.
    Pad,
    /// Scaled to a square with antialiasing, as in Pillow and torchvision. An image that is not square is distorted.
    Resize,
    /// Scaled until the shorter side has the size, then cropped to the centre of the longer side, as torchvision's `Resize` and
    /// `CenterCrop` do. Nothing is distorted.
    Crop,
}

impl Fit {
    /// The name in a configuration.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pad => "pad",
            Self::Resize => "resize",
            Self::Crop => "crop",
        }
    }
}

/// Interpolation of [`Fit::Resize`] and [`Fit::Crop`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Resample {
    /// Bilinear.
    #[default]
    Bilinear,
    /// Lanczos with three lobes, as the paper's released program resizes DermaMNIST (Pillow's `LANCZOS`).
    Lanczos,
}

/// Channels of the images of a dataset. In a configuration: `"keep"`, `1` or `3`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "ChannelsText", into = "ChannelsText")]
pub enum Channels {
    /// The channels of the source, which must be the same for all images.
    #[default]
    Keep,
    /// One channel. Colour becomes ITU-R BT.601 luma, `(19595 R + 38470 G + 7471 B + 32768) >> 16`, as in Pillow's
    /// `convert("L")`.
    Grey,
    /// Three channels. Grey is repeated.
    Rgb,
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
enum ChannelsText {
    Number(u64),
    Word(String),
}

impl TryFrom<ChannelsText> for Channels {
    type Error = String;

    fn try_from(text: ChannelsText) -> Result<Self, String> {
        let wrong = |found: String| Err(format!("channels: expected 1, 3 or \"keep\", found {found}"));
        match text {
            ChannelsText::Number(1) => Ok(Self::Grey),
            ChannelsText::Number(3) => Ok(Self::Rgb),
            ChannelsText::Number(n) => wrong(n.to_string()),
            ChannelsText::Word(word) => match word.as_str() {
                "keep" => Ok(Self::Keep),
                "1" => Ok(Self::Grey),
                "3" => Ok(Self::Rgb),
                _ => wrong(format!("{word:?}")),
            },
        }
    }
}

impl From<Channels> for ChannelsText {
    fn from(channels: Channels) -> Self {
        match channels {
            Channels::Keep => Self::Word("keep".into()),
            Channels::Grey => Self::Number(1),
            Channels::Rgb => Self::Number(3),
        }
    }
}

impl std::str::FromStr for Channels {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        ChannelsText::Word(s.into()).try_into()
    }
}

/// The configured shape of the images.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) size: Option<usize>,
    pub(crate) fit: Option<Fit>,
    pub(crate) resample: Resample,
    pub(crate) channels: Channels,
}

/// Why an image cannot be converted to the configured shape.
pub(crate) struct Misfit {
    pub(crate) expected: String,
    pub(crate) found: String,
}

impl Misfit {
    /// An image of shape `found` among images of shape `spec`.
    pub(crate) fn other_shape(found: ImageSpec, spec: ImageSpec) -> Self {
        let keys = if found.channels == spec.channels { "size and fit" } else { "channels = 1 or 3" };
        let expected = format!("{spec} (channels x rows x columns) like the first image; set {keys} to convert all");
        Self { expected, found: found.to_string() }
    }
}

impl Geometry {
    /// Checks the ranges.
    pub(crate) fn validate(&self) -> Result<()> {
        if let Some(size) = self.size
            && !(1..=MAX_SIDE).contains(&size)
        {
            return Err(Error::config("size", size, format!("1 to {MAX_SIDE} pixels")));
        }
        match self.fit {
            Some(fit) if self.size.is_none() => Err(Error::config("fit", fit.name(), "size to be set as well")),
            Some(Fit::Resize | Fit::Crop) => Ok(()),
            _ if self.resample == Resample::Lanczos => {
                Err(Error::config("resample", "lanczos", "fit = \"resize\" or \"crop\" to be set as well"))
            }
            _ => Ok(()),
        }
    }

    /// The shape to which an image of `spec` is converted.
    pub(crate) fn shape(&self, spec: ImageSpec) -> Result<ImageSpec, Misfit> {
        let channels = match self.channels {
            Channels::Grey => 1,
            Channels::Rgb => 3,
            Channels::Keep => spec.channels,
        };
        let ImageSpec { height, width, .. } = spec;
        let Some(size) = self.size else { return Ok(ImageSpec { channels, ..spec }) };
        let misfit = |expected: String| Misfit { expected, found: format!("{height}x{width} (rows x columns)") };
        match self.fit {
            _ if (height, width) == (size, size) => {}
            Some(Fit::Pad) if height <= size && width <= size => {}
            Some(Fit::Pad) => {
                let others = "(\"resize\" and \"crop\" take any size)";
                return Err(misfit(format!("at most {size}x{size} pixels for fit = \"pad\" {others}")));
            }
            Some(Fit::Crop) if size * height.max(width) / height.min(width).max(1) > MAX_SIDE => {
                let expected = format!("a longer side of at most {MAX_SIDE} pixels where the shorter one has {size}");
                return Err(misfit(expected));
            }
            Some(Fit::Resize | Fit::Crop) => {}
            None => {
                let keys = "(set fit = \"pad\", \"resize\" or \"crop\" for other sizes)";
                return Err(misfit(format!("{size}x{size} pixels {keys}")));
            }
        }
        Ok(ImageSpec::new(channels, size, size))
    }

    /// Converts an image to the configured shape.
    pub(crate) fn apply(&self, image: Pixels) -> Result<Pixels, Misfit> {
        let shape = self.shape(image.spec)?;
        // Channels before size: resizing one grey plane takes a third of the work.
        let image = match (self.channels, image.spec.channels) {
            (Channels::Grey, 3) => grey(image),
            (Channels::Rgb, 1) => Pixels { spec: ImageSpec { channels: 3, ..image.spec }, data: image.data.repeat(3) },
            _ => image,
        };
        if image.spec == shape {
            return Ok(image);
        }
        Ok(match self.fit {
            Some(Fit::Pad) => pad(&image, shape.height),
            Some(Fit::Crop) => crop(&image, shape.height, self.resample),
            _ => scale(&image, [shape.height, shape.width], self.resample),
        })
    }
}

fn grey(image: Pixels) -> Pixels {
    let plane = image.spec.height * image.spec.width;
    let (r, rest) = image.data.split_at(plane);
    let (g, b) = rest.split_at(plane);
    let luma = |((&r, &g), &b): ((&u8, &u8), &u8)| {
        ((19_595 * u32::from(r) + 38_470 * u32::from(g) + 7_471 * u32::from(b) + 32_768) >> 16) as u8
    };
    let data = r.iter().zip(g).zip(b).map(luma).collect();
    Pixels { spec: ImageSpec { channels: 1, ..image.spec }, data }
}

fn pad(image: &Pixels, size: usize) -> Pixels {
    let ImageSpec { channels, height, width } = image.spec;
    let top = (size - height) / 2;
    let left = (size - width) / 2;
    let mut data = vec![0; channels * size * size];
    for (i, row) in image.data.chunks_exact(width).enumerate() {
        let c = i / height;
        let y = i % height;
        let at = (c * size + top + y) * size + left;
        data[at..at + width].copy_from_slice(row);
    }
    Pixels { spec: ImageSpec::new(channels, size, size), data }
}

/// Scales the shorter side to `size`, rounds the longer one down, and crops it to its centre, as torchvision does.
fn crop(image: &Pixels, size: usize, resample: Resample) -> Pixels {
    let ImageSpec { channels, height, width } = image.spec;
    let shorter = height.min(width);
    let [rows, columns] = [height, width].map(|side| if side == shorter { size } else { size * side / shorter });
    // Half of an odd number is rounded to an even number, as in Python.
    let start = |side: usize| {
        let rest = side - size;
        rest / 2 + usize::from(rest % 4 == 3)
    };
    let (top, left) = (start(rows), start(columns));
    let scaled = scale(image, [rows, columns], resample);
    let mut data = Vec::with_capacity(channels * size * size);
    for plane in scaled.data.chunks_exact(rows * columns) {
        plane.chunks_exact(columns).skip(top).take(size).for_each(|row| data.extend(&row[left..left + size]));
    }
    Pixels { spec: ImageSpec::new(channels, size, size), data }
}

/// Scales rows, then columns, with Pillow's arithmetic: weights in fixed point, and 8-bit values between the two passes.
fn scale(image: &Pixels, [rows, columns]: [usize; 2], resample: Resample) -> Pixels {
    let ImageSpec { channels, height, width } = image.spec;
    let across = weights(width, columns, resample);
    let down = weights(height, rows, resample);
    let mut data = Vec::with_capacity(channels * rows * columns);
    for plane in image.data.chunks_exact(height * width) {
        let lines: Vec<u8> = plane.chunks_exact(width).flat_map(|row| across.iter().map(|w| w.sum(row, 1))).collect();
        data.extend(down.iter().flat_map(|w| (0..columns).map(|x| w.sum(&lines[x..], columns))));
    }
    Pixels { spec: ImageSpec::new(channels, rows, columns), data }
}

/// The weights of the input pixels of one output pixel, from input pixel `first` on, in units of 2^-[`PRECISION`].
struct Weights {
    first: usize,
    weights: Vec<i64>,
}

/// Fractional bits of a weight, as in Pillow.
const PRECISION: u32 = 22;

impl Weights {
    /// The weighted sum of every `step`-th value.
    fn sum(&self, values: &[u8], step: usize) -> u8 {
        let terms = self.weights.iter().zip(values.iter().step_by(step).skip(self.first));
        let sum = terms.map(|(&weight, &value)| weight * i64::from(value)).sum::<i64>();
        ((sum + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as u8
    }
}

/// The weights for scaling `from` pixels to `to` pixels. For downscaling the filter is widened, which antialiases.
fn weights(from: usize, to: usize, resample: Resample) -> Vec<Weights> {
    let scale = from as f64 / to as f64;
    let widened = scale.max(1.0);
    let reach = widened * if resample == Resample::Lanczos { 3.0 } else { 1.0 };
    let of = |pixel: usize| {
        let centre = (pixel as f64 + 0.5) * scale;
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let end = ((centre + reach + 0.5) as usize).min(from);
        let raw: Vec<f64> = (first..end).map(|at| kernel((at as f64 - centre + 0.5) / widened, resample)).collect();
        let sum: f64 = raw.iter().sum();
        let fixed = |weight: &f64| (weight / sum * f64::from(1 << PRECISION)).round() as i64;
        Weights { first, weights: raw.iter().map(fixed).collect() }
    };
    (0..to).map(of).collect()
}

fn kernel(x: f64, resample: Resample) -> f64 {
    let sinc = |x: f64| {
        let x = x * std::f64::consts::PI;
        if x == 0.0 { 1.0 } else { x.sin() / x }
    };
    match resample {
        Resample::Bilinear => (1.0 - x.abs()).max(0.0),
        Resample::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
        Resample::Lanczos => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(channels: usize, height: usize, width: usize, data: &[u8]) -> Pixels {
        Pixels { spec: ImageSpec::new(channels, height, width), data: data.to_vec() }
    }

    fn apply(size: Option<usize>, fit: Option<Fit>, channels: Channels, image: Pixels) -> Option<Pixels> {
        Geometry { size, fit, resample: Resample::default(), channels }.apply(image).ok()
    }

    #[test]
    fn padding_is_centred_with_the_odd_line_below_and_right() {
        let out = apply(Some(4), Some(Fit::Pad), Channels::Keep, pixels(1, 2, 1, &[7, 9])).unwrap();
        #[rustfmt::skip]
        assert_eq!(out.data, [
            0, 0, 0, 0,
            0, 7, 0, 0,
            0, 9, 0, 0,
            0, 0, 0, 0,
        ]);
        assert_eq!(out.spec, ImageSpec::new(1, 4, 4));
    }

    #[test]
    fn padding_keeps_channels_separate() {
        let out = apply(Some(2), Some(Fit::Pad), Channels::Keep, pixels(3, 1, 2, &[1, 2, 3, 4, 5, 6])).unwrap();
        assert_eq!(out.data, [1, 2, 0, 0, 3, 4, 0, 0, 5, 6, 0, 0]);
    }

    #[test]
    fn images_are_never_cropped_and_only_resized_on_request() {
        assert!(apply(Some(2), Some(Fit::Pad), Channels::Keep, pixels(1, 3, 1, &[1, 2, 3])).is_none());
        assert!(apply(Some(2), None, Channels::Keep, pixels(1, 1, 1, &[1])).is_none());
    }

    #[test]
    fn grey_is_pillows_luma() {
        // Expected values: Image.new("RGB", (1, 1), c).convert("L").getpixel((0, 0)) in Pillow.
        for (colour, luma) in
            [([255, 0, 0], 76), ([0, 255, 0], 150), ([0, 0, 255], 29), ([12, 200, 99], 132), ([255, 255, 255], 255)]
        {
            let out = apply(None, None, Channels::Grey, pixels(3, 1, 1, &colour)).unwrap();
            assert_eq!(out.data, [luma], "{colour:?}");
        }
        let back = apply(None, None, Channels::Rgb, pixels(1, 1, 2, &[5, 6])).unwrap();
        assert_eq!(back.data, [5, 6, 5, 6, 5, 6]);
    }

    #[test]
    fn resizing_keeps_orientation_and_flat_areas() {
        // The left is dark and the right bright; the top is 40 brighter than the bottom.
        let data: Vec<u8> = (0..16u8).map(|i| if i % 4 < 2 { 10 } else { 200 } + if i < 8 { 40 } else { 0 }).collect();
        let out = apply(Some(2), Some(Fit::Resize), Channels::Keep, pixels(1, 4, 4, &data)).unwrap();
        let [a, b, c, d] = out.data[..] else { panic!("expected 4 pixels") };
        assert!(a < b && c < d && a > c && b > d, "{:?}", out.data);
        let flat = apply(Some(5), Some(Fit::Resize), Channels::Keep, pixels(1, 3, 2, &[77; 6])).unwrap();
        assert_eq!(flat.data, [77; 25]);
    }

    /// The expected values are Pillow's, in the proportion of DermaMNIST's 28 to 32:
    ///
    /// ```python
    /// image = Image.new("L", (7, 7))
    /// image.putdata([(y*37 + x*x*5 + (90 if (x + y) % 3 == 0 else 0)) % 251 for y in range(7) for x in range(7)])
    /// print(list(image.resize((8, 8), Image.Resampling.LANCZOS).getdata()))
    /// ```
    #[test]
    fn resampling_is_pillows() {
        let value = |(y, x): (usize, usize)| (y * 37 + x * x * 5 + if (x + y) % 3 == 0 { 90 } else { 0 }) % 251;
        let data: Vec<u8> = (0..49).map(|i| value((i / 7, i % 7)) as u8).collect();
        #[rustfmt::skip]
        let expected: [(Resample, [u8; 64]); 2] = [
            (Resample::Lanczos, [
                95, 23, 0, 96, 119, 95, 116, 4, 49, 18, 104, 116, 101, 60, 36, 209, 39, 129, 136, 75, 151, 210, 103, 64, 160, 149, 122,
                170, 212, 241, 223, 52, 187, 158, 61, 156, 244, 202, 176, 125, 160, 127, 38, 126, 238, 167, 66, 67, 173, 60, 170, 255,
                153, 57, 81, 145, 49, 199, 255, 165, 62, 49, 131, 250,
            ]),
            (Resample::Bilinear, [
                90, 21, 15, 85, 111, 94, 105, 19, 47, 37, 95, 105, 100, 83, 54, 180, 62, 117, 116, 109, 150, 183, 125, 70, 145, 140,
                122, 158, 201, 216, 192, 74, 178, 141, 94, 159, 216, 199, 167, 107, 160, 123, 83, 145, 198, 160, 94, 89, 162, 84, 166,
                209, 158, 85, 79, 138, 61, 196, 237, 166, 82, 65, 123, 241,
            ]),
        ];
        for (resample, expected) in expected {
            let geometry = Geometry { size: Some(8), fit: Some(Fit::Resize), resample, channels: Channels::Keep };
            let found = geometry.apply(pixels(1, 7, 7, &data)).ok().unwrap().data;
            assert_eq!(found, expected, "{resample:?}");
        }
        // Five rows of the same formula, scaled down.
        for (resample, expected) in [
            (Resample::Lanczos, [41, 86, 84, 110, 162, 148, 129, 175, 161]),
            (Resample::Bilinear, [49, 92, 88, 113, 149, 142, 133, 171, 151]),
        ] {
            let geometry = Geometry { size: Some(3), fit: Some(Fit::Resize), resample, channels: Channels::Keep };
            let found = geometry.apply(pixels(1, 5, 7, &data[..35])).ok().unwrap().data;
            assert_eq!(found, expected, "{resample:?}");
        }
    }

    /// torchvision: `CenterCrop(4)(Resize(4)(image))`. The wide image is 4x9 after scaling, and the crop starts at round(2.5) = 2.
    #[test]
    fn cropping_scales_the_shorter_side_and_takes_the_centre() {
        let wide: Vec<u8> = (0..8 * 18).map(|i| (i % 18 * 10) as u8).collect();
        let out = apply(Some(4), Some(Fit::Crop), Channels::Keep, pixels(1, 8, 18, &wide)).unwrap();
        let scaled = scale(&pixels(1, 8, 18, &wide), [4, 9], Resample::Bilinear);
        assert_eq!(out.data[..4], scaled.data[2..6]);
        let tall = pixels(3, 7, 4, &[9; 84]);
        let out = apply(Some(4), Some(Fit::Crop), Channels::Keep, tall).unwrap();
        assert_eq!((out.spec, out.data.len()), (ImageSpec::new(3, 4, 4), 48));
        // 7x4: of the 3 extra rows, round(1.5) = 2 are cut at the top.
        let rows: Vec<u8> = (0..28).map(|i| i / 4).collect();
        let out = apply(Some(4), Some(Fit::Crop), Channels::Keep, pixels(1, 7, 4, &rows)).unwrap();
        assert_eq!((out.data[0], out.data[15]), (2, 5));
    }

    #[test]
    fn channels_are_read_as_number_or_word() {
        let parse = |text: &str| serde_json::from_str::<Channels>(text);
        assert_eq!(parse("1").unwrap(), Channels::Grey);
        assert_eq!(parse("3").unwrap(), Channels::Rgb);
        assert_eq!(parse("\"keep\"").unwrap(), Channels::Keep);
        assert!(parse("2").unwrap_err().to_string().contains("expected 1, 3"));
        assert_eq!(serde_json::to_string(&Channels::Rgb).unwrap(), "3");
    }
}
