//! ONNX files. Without the feature `onnx`, the functions here fail and say how to enable it.

use std::path::Path;

use anyhow::Result;
use gafi_command::Role;
use gafi_core::Stage;
use serde_json::Value;

#[cfg(feature = "onnx")]
pub(crate) use gafi_onnx::register;

/// The stage that imports `file` as `config` says.
///
/// # Errors
/// [`crate::Usage`] for an unknown key; an error that says what is wrong with the file.
#[cfg(feature = "onnx")]
pub(crate) fn import(role: Role, file: &Path, config: Value) -> Result<Box<dyn Stage>> {
    use gafi_pipeline::overrides::resolve;
    Ok(match role {
        Role::Generator => Box::new(gafi_onnx::ImportOnnx::generator(file, resolve(config, "import-generator")?)?),
        Role::Scorer => Box::new(gafi_onnx::ImportOnnx::classifier(file, resolve(config, "import-teacher")?)?),
    })
}

#[cfg(not(feature = "onnx"))]
const MISSING: &str = "this build has no ONNX support; rebuild with: cargo build -p gafi-cli --features onnx";

/// # Errors
/// Always, because this build lacks the feature.
#[cfg(not(feature = "onnx"))]
pub(crate) fn import(_: Role, _: &Path, _: Value) -> Result<Box<dyn Stage>> {
    Err(crate::Usage(MISSING.into()).into())
}

/// Adds loaders that fail and name the feature.
#[cfg(not(feature = "onnx"))]
pub(crate) fn register(loaders: gafi_core::ModelLoaders) -> gafi_core::ModelLoaders {
    const NAME: &str = "onnx";
    let missing = || gafi_core::Error::config("architecture", NAME, format!("another architecture: {MISSING}"));
    loaders
        .with_generator(NAME, Box::new(move |_, _| Err(missing())))
        .with_scorer(NAME, Box::new(move |_| Err(missing())))
}
