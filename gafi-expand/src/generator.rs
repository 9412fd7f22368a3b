//! A generator from a closure, for networks outside GaFi: in another framework, a remote service, a formula.

use gafi_core::{ClassId, Generator, ImageSpec, Result};

/// A generator that calls a closure; see [`generator_fn`].
#[derive(Clone)]
pub struct GeneratorFn<F> {
    image: ImageSpec,
    classes: Vec<String>,
    latent_dim: usize,
    generate: F,
}

impl<F> std::fmt::Debug for GeneratorFn<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GeneratorFn")
            .field("image", &self.image)
            .field("classes", &self.classes)
            .field("latent_dim", &self.latent_dim)
            .finish_non_exhaustive()
    }
}

/// A generator that calls `generate`: latents (n, `latent_dim`) and labels (n) to pixels (n, c, h, w). An image must not depend on the
/// batch it is in. [`Expanded`](crate::Expanded) checks the number of bytes; `generate` itself does not.
pub fn generator_fn<F>(image: ImageSpec, classes: &[&str], latent_dim: usize, generate: F) -> GeneratorFn<F>
where
    F: FnMut(&[f32], &[ClassId]) -> Result<Vec<u8>> + Send,
{
    let classes = classes.iter().map(ToString::to_string).collect();
    GeneratorFn { image, classes, latent_dim, generate }
}

impl<F> Generator for GeneratorFn<F>
where
    F: FnMut(&[f32], &[ClassId]) -> Result<Vec<u8>> + Send,
{
    fn image(&self) -> &ImageSpec {
        &self.image
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn latent_dim(&self) -> usize {
        self.latent_dim
    }

    fn generate(&mut self, latents: &[f32], labels: &[ClassId]) -> Result<Vec<u8>> {
        (self.generate)(latents, labels)
    }
}
