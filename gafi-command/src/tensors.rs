//! The exchanged safetensors files. Every answer is checked: names, types, shapes, ranges.

use gafi_core::{Error, ImageSpec, Result, Scored};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::failure::Mismatch;
use crate::protocol::Values;

/// How far outside its range rounding may put a value; such a value is clamped.
const SLACK: f32 = 1e-3;

/// How far the sum of an image's probabilities may be from 1. Half-precision networks come this close.
const SUM_SLACK: f64 = 1e-2;

/// Encodes a file with one tensor.
pub(crate) fn encode(name: &str, dtype: Dtype, shape: Vec<usize>, data: &[u8]) -> Result<Vec<u8>> {
    let context = || format!("encoding {name} for a program");
    let view = TensorView::new(dtype, shape, data).map_err(Error::other(context()))?;
    safetensors::serialize([(name, view)], None).map_err(Error::other(context()))
}

/// The images of an answer as pixels (n, c, h, w).
pub(crate) fn images(answer: &[u8], n: usize, image: &ImageSpec, values: Values) -> Result<Vec<u8>, Mismatch> {
    let shape = [n, image.channels, image.height, image.width];
    let file = parse(answer)?;
    if values == Values::U8 {
        return Ok(column(&file, "images", Dtype::U8, &shape)?.to_vec());
    }
    let floats = floats(column(&file, "images", Dtype::F32, &shape)?);
    let out = floats.iter().position(|x| !(-1.0 - SLACK..=1.0 + SLACK).contains(x));
    if let Some(at) = out {
        let found = format!("{} in image {}", floats[at], at / image.bytes());
        return Err(Mismatch::new("image values from -1 (black) to 1 (white)", found));
    }
    // Rounds half away from zero, as GaFi's own generators do; `as` saturates.
    Ok(floats.iter().map(|x| ((x + 1.0) * 127.5).round() as u8).collect())
}

/// The probabilities (n, classes) of an answer, and its features (n, dim) where `dim` is not 0.
pub(crate) fn scores(answer: &[u8], n: usize, classes: usize, dim: usize) -> Result<Scored, Mismatch> {
    let file = parse(answer)?;
    let mut probabilities = floats(column(&file, "probabilities", Dtype::F32, &[n, classes])?);
    for (row, p) in probabilities.chunks_exact_mut(classes).enumerate() {
        if let Some(bad) = p.iter().find(|p| !(-SLACK..=1.0 + SLACK).contains(*p)) {
            return Err(Mismatch::new("probabilities from 0 to 1", format!("{bad} for image {row}")));
        }
        let sum: f64 = p.iter().copied().map(f64::from).sum();
        if (sum - 1.0).abs() > SUM_SLACK {
            let expected = "probabilities that sum to 1 for each image (apply the softmax)";
            return Err(Mismatch::new(expected, format!("a sum of {sum} for image {row}")));
        }
        p.iter_mut().for_each(|p| *p = p.clamp(0.0, 1.0));
    }
    let features = if dim == 0 { Vec::new() } else { floats(column(&file, "features", Dtype::F32, &[n, dim])?) };
    if let Some(at) = features.iter().position(|x| !x.is_finite()) {
        return Err(Mismatch::new("finite features", format!("{} for image {}", features[at], at / dim)));
    }
    Ok(Scored { probabilities, features })
}

fn parse(answer: &[u8]) -> Result<SafeTensors<'_>, Mismatch> {
    SafeTensors::deserialize(answer)
        .map_err(|e| Mismatch::new("a safetensors file", format!("{} bytes of something else ({e})", answer.len())))
}

fn column<'a>(file: &SafeTensors<'a>, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&'a [u8], Mismatch> {
    let expected = || format!("a tensor {name:?} of {dtype:?} {shape:?}");
    let Ok(tensor) = file.tensor(name) else {
        let mut names = file.names();
        names.sort_unstable();
        return Err(Mismatch::new(expected(), format!("tensors {names:?}")));
    };
    if tensor.dtype() != dtype || tensor.shape() != shape {
        return Err(Mismatch::new(expected(), format!("{:?} {:?}", tensor.dtype(), tensor.shape())));
    }
    Ok(tensor.data())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, shape: &[usize], values: &[f32]) -> Vec<u8> {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        encode(name, Dtype::F32, shape.to_vec(), &bytes).unwrap()
    }

    #[test]
    fn images_come_as_u8_or_f32() {
        let image = ImageSpec::new(1, 1, 2);
        let bytes = encode("images", Dtype::U8, vec![2, 1, 1, 2], &[0, 7, 200, 255]).unwrap();
        assert_eq!(images(&bytes, 2, &image, Values::U8).unwrap(), [0, 7, 200, 255]);
        let floats = file("images", &[1, 1, 1, 2], &[-1.0005, 0.5]);
        assert_eq!(images(&floats, 1, &image, Values::F32).unwrap(), [0, 191]);
        let found = |bytes: &[u8], n, values| images(bytes, n, &image, values).unwrap_err().found;
        assert_eq!(found(&bytes, 3, Values::U8), "U8 [2, 1, 1, 2]");
        assert_eq!(found(&bytes, 2, Values::F32), "U8 [2, 1, 1, 2]");
        assert_eq!(found(&floats, 1, Values::U8), "F32 [1, 1, 1, 2]");
        assert!(found(&bytes[..30], 2, Values::U8).contains("30 bytes of something else"));
        assert!(found(&[255; 100], 2, Values::U8).contains("100 bytes of something else"));
        for bad in [1.5, f32::NAN, f32::INFINITY] {
            let bytes = file("images", &[2, 1, 1, 2], &[0.0, 0.0, 0.0, bad]);
            assert_eq!(found(&bytes, 2, Values::F32), format!("{bad} in image 1"));
        }
    }

    #[test]
    fn scores_must_be_probabilities() {
        let good = file("probabilities", &[2, 2], &[0.25, 0.75, 1.0005, 0.0]);
        let scored = scores(&good, 2, 2, 0).unwrap();
        assert_eq!((scored.probabilities, scored.features), (vec![0.25, 0.75, 1.0, 0.0], vec![]));
        assert_eq!(scores(&good, 2, 2, 3).unwrap_err().found, "tensors [\"probabilities\"]");
        for (values, found) in [
            ([0.5, 0.5, 3.0, -1.0], "3 for image 1"),
            ([0.5, 0.2, 0.5, 0.5], "a sum of 0.7000000029802322 for image 0"),
            ([0.5, f32::NAN, 0.5, 0.5], "NaN for image 0"),
        ] {
            assert_eq!(scores(&file("probabilities", &[2, 2], &values), 2, 2, 0).unwrap_err().found, found);
        }
    }
}
