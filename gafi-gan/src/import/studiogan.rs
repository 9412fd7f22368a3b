//! Converts generators of PyTorch-StudioGAN (<https://github.com/POSTECH-CVLab/PyTorch-StudioGAN>). Supported are its
//! backbones `big_resnet` and `big_resnet_deep_studiogan` with conditional batch norms and relu, with or without
//! spectral norm (as stored by `torch.nn.utils.spectral_norm`).
//!
//! The configuration is inferred from the shapes. The weights are adapted to two differences. StudioGAN's condition is
//! concat(class embedding, latent), ours is concat(latent, class embedding), so columns are swapped. StudioGAN's batch
//! norms add 1e-4 to the variance, ours 1e-5, so the difference is added to the running variance.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{Device, Tensor};
use gafi_core::{Error, Result};
use gafi_nn::{Params, checkpoint};

use super::Imported;
use super::layout::Layout;
use super::name::listed;
use super::state_dict::State;
use crate::architecture::Architecture;
use crate::blocks::BN_EPS;
use crate::networks::{Form, GeneratorNet};
use crate::spectral::divided;

/// Added to the variance in StudioGAN's batch norms.
const THEIR_BN_EPS: f64 = 1e-4;

/// A network more than this many times larger than the file's tensors is refused before memory is allocated for it. A smaller
/// one is built, so that the error can list the tensors that the file lacks.
const SPARE: usize = 16;

/// Maximum number of tensors that an error lists for each kind of fault.
const LISTED: usize = 20;

/// Tensors by which a generator is found in a file. None of StudioGAN's discriminators has one of these names.
pub const SOME: [&str; 6] = [
    "shared.weight",
    "shared.weight_orig",
    "linear0.weight",
    "linear0.weight_orig",
    "conv2d5.weight",
    "conv2d5.weight_orig",
];

/// Converts the generator with this state dict. `path` is named in errors.
///
/// # Errors
/// [`Error::Format`] when the shapes do not match a supported generator. Tensors that are missing, unknown or of
/// another shape are listed.
pub fn generator(path: &Path, state: &State) -> Result<Imported> {
    let layout = Layout::of(path, state)?;
    layout.architecture.check(&layout.image)?;
    // Building the network yields the names and shapes of its tensors.
    let values = state.values().map(Tensor::elem_count).sum::<usize>();
    let mut params = Params::of_at_most(values.saturating_mul(SPARE), &Device::Cpu);
    GeneratorNet::new(params.root(), &layout.architecture, &layout.image, layout.classes, Form::Inference)?;
    let shape = |(name, var): (&str, &candle_core::Var)| (name.to_string(), var.dims().to_vec());
    let shapes = params.vars().chain(params.buffers()).map(shape).collect();
    let mut conversion = Conversion {
        state,
        shapes,
        shared: layout.shared,
        used: BTreeSet::new(),
        missing: Vec::new(),
        wrong: Vec::new(),
        not_finite: Vec::new(),
        weights: State::new(),
    };
    conversion.network(&layout).map_err(gafi_nn::Error::from)?;
    let weights = conversion.finish(path, &layout)?;
    let Layout { architecture, image, classes, .. } = layout;
    Ok(Imported { architecture, image, classes, weights })
}

/// A conversion in progress, and the faults found so far.
struct Conversion<'a> {
    state: &'a State,
    /// Shapes of our tensors; StudioGAN's have the same.
    shapes: BTreeMap<String, Vec<usize>>,
    shared: usize,
    used: BTreeSet<String>,
    missing: Vec<String>,
    wrong: Vec<String>,
    not_finite: Vec<String>,
    weights: State,
}

impl<'a> Conversion<'a> {
    /// Converts every tensor of the network.
    fn network(&mut self, layout: &Layout) -> candle_core::Result<()> {
        let deep = matches!(layout.architecture, Architecture::BigGanDeep(_));
        self.layer("shared", "embedding", false, false)?;
        // BigGAN's first linear layer sees only a part of the latent, BigGAN-Deep's the whole condition.
        self.layer("linear0", "linear", true, deep)?;
        for (theirs, ours) in &layout.blocks {
            for k in 0..if deep { 4 } else { 2 } {
                let bn = format!("{theirs}.bn{}", k + 1);
                let norm = format!("{ours}.norm{k}");
                self.layer(&format!("{bn}.gain"), &format!("{norm}.gain"), false, true)?;
                self.layer(&format!("{bn}.bias"), &format!("{norm}.shift"), false, true)?;
                self.statistics(&format!("{bn}.bn"), &norm)?;
                self.layer(&format!("{theirs}.conv2d{}", k + 1), &format!("{ours}.conv{k}"), true, false)?;
            }
            self.layer(&format!("{theirs}.conv2d0"), &format!("{ours}.skip"), true, false)?;
        }
        for (theirs, ours) in &layout.attentions {
            for (part, our_part) in [("theta", "query"), ("phi", "key"), ("g", "value"), ("attn", "out")] {
                self.layer(&format!("{theirs}.conv1x1_{part}"), &format!("{ours}.{our_part}"), false, false)?;
            }
            self.tensor(&format!("{theirs}.sigma"), &format!("{ours}.scale"));
        }
        self.tensor("bn4.weight", "norm.weight");
        self.tensor("bn4.bias", "norm.bias");
        self.statistics("bn4", "norm")?;
        self.layer("conv2d5", "out", true, false)
    }

    /// Converts the weight of a layer and, if it has one, its bias. The input of a `conditional` layer is the
    /// condition.
    fn layer(&mut self, theirs: &str, ours: &str, bias: bool, conditional: bool) -> candle_core::Result<()> {
        if bias {
            self.tensor(&format!("{theirs}.bias"), &format!("{ours}.bias"));
        }
        let name = format!("{ours}.weight");
        let shape = self.shape(&name);
        let part = |end: &str| format!("{theirs}.weight{end}");
        let weight = if ["_orig", "_u", "_v"].iter().any(|end| self.state.contains_key(&part(end))) {
            let weight = self.get(part("_orig"), &shape);
            let u = self.get(part("_u"), &shape[..1.min(shape.len())]);
            let v = self.get(part("_v"), &[shape.iter().skip(1).product()]);
            let (Some(weight), Some(u), Some(v)) = (weight, u, v) else { return Ok(()) };
            divided(weight, u, v)?
        } else {
            let Some(weight) = self.get(part(""), &shape) else { return Ok(()) };
            weight.clone()
        };
        let weight = if conditional {
            let latent = weight.dim(1)?.saturating_sub(self.shared);
            Tensor::cat(&[weight.narrow(1, self.shared, latent)?, weight.narrow(1, 0, self.shared)?], 1)?
        } else {
            weight
        };
        self.insert(&part(""), name, weight);
        Ok(())
    }

    /// Converts the running statistics of a batch norm.
    fn statistics(&mut self, theirs: &str, ours: &str) -> candle_core::Result<()> {
        self.tensor(&format!("{theirs}.running_mean"), &format!("{ours}.running_mean"));
        let name = format!("{ours}.running_var");
        if let Some(var) = self.get(format!("{theirs}.running_var"), &self.shape(&name)) {
            self.insert(&format!("{theirs}.running_var"), name, (var + (THEIR_BN_EPS - BN_EPS))?);
        }
        Ok(())
    }

    /// Copies a tensor.
    fn tensor(&mut self, theirs: &str, ours: &str) {
        if let Some(tensor) = self.get(theirs.into(), &self.shape(ours)) {
            self.insert(theirs, ours.into(), tensor.clone());
        }
    }

    /// Adds a converted tensor.
    fn insert(&mut self, theirs: &str, ours: String, tensor: Tensor) {
        let weights = State::from([(ours, tensor)]);
        if checkpoint::check_finite("weights", &weights).is_err() {
            self.not_finite.push(theirs.into());
        }
        self.weights.extend(weights);
    }

    fn shape(&self, ours: &str) -> Vec<usize> {
        self.shapes.get(ours).cloned().unwrap_or_default()
    }

    fn get(&mut self, theirs: String, shape: &[usize]) -> Option<&'a Tensor> {
        let found = self.state.get(&theirs);
        match found {
            None => self.missing.push(format!("{theirs} {shape:?}")),
            Some(tensor) if tensor.dims() != shape => {
                self.wrong.push(format!("{}, expected {shape:?}", describe(&theirs, tensor)));
            }
            Some(_) => {}
        }
        self.used.insert(theirs);
        found.filter(|tensor| tensor.dims() == shape)
    }

    /// The converted weights, or an error listing every fault.
    fn finish(self, path: &Path, layout: &Layout) -> Result<State> {
        let unknown = self.state.iter().filter(|(name, _)| !self.used.contains(*name));
        let unknown: Vec<_> = unknown.map(|(name, tensor)| describe(name, tensor)).collect();
        let info = if unknown.iter().any(|name| name.starts_with("info_")) {
            "unknown (InfoGAN's inputs are not supported)"
        } else {
            "unknown"
        };
        let faults: Vec<_> =
            [("missing", self.missing), ("wrong shape", self.wrong), (info, unknown), ("not finite", self.not_finite)]
                .into_iter()
                .filter(|(_, names)| !names.is_empty())
                .map(|(what, names)| format!("{what}: {}", listed(&names, ", ", LISTED)))
                .collect();
        if faults.is_empty() {
            return Ok(self.weights);
        }
        let Layout { image, classes, architecture, .. } = layout;
        let architecture = serde_json::to_string(architecture).unwrap_or_default();
        let expected = format!("the tensors of a generator of {image} images in {classes} classes, {architecture}");
        Err(Error::format(path, "state dict", expected, faults.join("; ")))
    }
}

fn describe(name: &str, tensor: &Tensor) -> String {
    format!("{name} {:?}", tensor.dims())
}
