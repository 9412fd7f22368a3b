//! ONNX files, in a build that runs them (the feature `onnx`), and what is said in one that does not.

use std::path::Path;

use anyhow::Result;
use gafi_command::Role;
use gafi_core::Stage;
use serde_json::Value;

#[cfg(feature = "onnx")]
pub(crate) use gafi_onnx::register;

/// The stage that imports `file`, read as the tree `config` says.
///
/// # Errors
/// [`crate::Usage`] for a key that there is not; what the file has wrong.
#[cfg(feature = "onnx")]
pub(crate) fn import(role: Role, file: &Path, config: Value) -> Result<Box<dyn Stage>> {
    use gafi_pipeline::overrides::resolve;
    Ok(match role {
        Role::Generator => Box::new(gafi_onnx::ImportOnnx::generator(file, resolve(config, "import-generator")?)?),
        Role::Scorer => Box::new(gafi_onnx::ImportOnnx::classifier(file, resolve(config, "import-teacher")?)?),
    })
}

#[cfg(not(feature = "onnx"))]
const MISSING: &str = "this build runs no ONNX files; one that does: cargo build -p gafi-cli --features onnx";

/// # Errors
/// Always: how to get a build that can.
#[cfg(not(feature = "onnx"))]
pub(crate) fn import(_: Role, _: &Path, _: Value) -> Result<Box<dyn Stage>> {
    Err(crate::Usage(MISSING.into()).into())
}

/// ModelLoaders that say how to get a build that can.
#[cfg(not(feature = "onnx"))]
pub(crate) fn register(loaders: gafi_core::ModelLoaders) -> gafi_core::ModelLoaders {
    const NAME: &str = "onnx";
    let missing = || gafi_core::Error::config("architecture", NAME, format!("another one: {MISSING}"));
    loaders
        .with_generator(NAME, Box::new(move |_, _| Err(missing())))
        .with_scorer(NAME, Box::new(move |_| Err(missing())))
}
