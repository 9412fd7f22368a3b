//! The activations that trunks apply as they read feature maps.

/// An elementwise activation.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// x where positive, slope * x elsewhere. The gradient at 0 is the slope.
    Leaky(f32),
    /// x * P(X <= x) for a standard normal X (Hendrycks and Gimpel 2016, arXiv 1606.08415), with the error function itself,
    /// not its approximation by tanh.
    Gelu,
}

impl Activation {
    /// max(x, 0).
    pub const RELU: Self = Self::Leaky(0.0);
}
