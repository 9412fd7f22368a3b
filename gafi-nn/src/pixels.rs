//! Conversion between 8-bit pixels and the networks' range [-1, 1], the released program's scaling.

use candle_core::{Device, Tensor};
use gafi_core::ImageSpec;
use gafi_kernels::to_host;
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Minimum number of values converted by one task.
const CHUNK: usize = 16 * 1024;

/// Scales a pixel: v / 127.5 - 1, so black is -1 and white is 1.
pub fn scale(v: u8) -> f32 {
    f32::from(v) / 127.5 - 1.0
}

/// Converts images (N, C, H, W) to an f32 tensor of that shape with values in [-1, 1], on `device`.
///
/// # Errors
/// When `pixels` does not hold whole images of the shape `image`.
pub fn to_tensor(pixels: &[u8], image: &ImageSpec, device: &Device) -> Result<Tensor> {
    let bytes = image.bytes();
    if bytes == 0 || !pixels.len().is_multiple_of(bytes) {
        return Err(Error::Input {
            what: "pixels",
            expected: format!("whole images of {bytes} bytes ({image})"),
            found: format!("{} bytes", pixels.len()),
        });
    }
    let mut values = vec![0f32; pixels.len()];
    values.par_chunks_mut(CHUNK).zip(pixels.par_chunks(CHUNK)).for_each(|(to, from)| {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = scale(*from));
    });
    let shape = (pixels.len() / bytes, image.channels, image.height, image.width);
    Ok(Tensor::from_vec(values, shape, device)?)
}

/// Converts values in [-1, 1] to pixels in row-major order: (x + 1) * 127.5, rounded half away from zero and clamped to
/// 0..=255.
///
/// # Errors
/// [`Error::NonFinite`] for a NaN, which a cast would turn into a black pixel.
pub fn to_u8(tensor: &Tensor) -> Result<Vec<u8>> {
    let values = to_host(&tensor.detach().flatten_all()?)?.to_vec1::<f32>()?;
    if values.par_chunks(CHUNK).any(|chunk| chunk.iter().any(|value| value.is_nan())) {
        return Err(Error::NonFinite { what: "an image".into() });
    }
    let mut pixels = vec![0u8; values.len()];
    pixels.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(to, from)| {
        // `as` saturates, which clamps.
        to.iter_mut().zip(from).for_each(|(to, from)| *to = ((from + 1.0) * 127.5).round() as u8);
    });
    Ok(pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pixel_value_round_trips() {
        let all: Vec<u8> = (0..=255).collect();
        let tensor = to_tensor(&all, &ImageSpec::new(1, 8, 16), &Device::Cpu).unwrap();
        assert_eq!(tensor.dims(), [2, 1, 8, 16]);
        assert_eq!(to_u8(&tensor).unwrap(), all);
        let flat = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!((flat[0], flat[255]), (-1.0, 1.0));
    }

    #[test]
    fn values_are_clamped_and_halves_round_away_from_zero() {
        let half = 100.5f32 / 127.5 - 1.0;
        let tensor = Tensor::new(&[-7f32, 7.0, half, f32::INFINITY], &Device::Cpu).unwrap();
        let pixels = to_u8(&tensor).unwrap();
        assert_eq!((pixels[0], pixels[1], pixels[3]), (0, 255, 255));
        assert_eq!(pixels[2], ((half + 1.0) * 127.5).round() as u8);
        assert!(to_u8(&Tensor::new(&[0f32, f32::NAN], &Device::Cpu).unwrap()).is_err());
    }

    #[test]
    fn incomplete_images_are_errors() {
        let error = to_tensor(&[0; 7], &ImageSpec::new(1, 2, 2), &Device::Cpu).unwrap_err().to_string();
        assert_eq!(error, "pixels: expected whole images of 4 bytes (1x2x2), found 7 bytes");
    }
}
