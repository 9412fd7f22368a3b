//! The training loop of a GAN.

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::{Device, Tensor};
use gafi_core::{ArtifactWriter, ClassId, Context, Error, Generator, Result, Rows, Stream};
use gafi_nn::{Params, checkpoint};

use crate::batches::{Batches, latent_tensor, latents};
use crate::config::{BatchNorm, GanConfig};
use crate::diffaugment::Draws;
use crate::grid::png_grid;
use crate::info::{CheckpointInfo, GeneratorInfo, TRAINING, samples_file};
use crate::players::{DUpdate, Players};
use crate::sampler::Sampler;
use crate::spectral::bake;

/// The resume state's file.
const STATE: &str = "training.safetensors";

/// Trains the GAN of `config` on `data`, writing checkpoints and samples to `out` as it goes.
///
/// What it should reach. [`GanConfig::small`] on Fashion-MNIST padded to 32x32: every class recognisable from step 500 on,
/// and at the end samples that train a ResNet-20 of width 8 (10,000 of them) to about 75 % on real images, where as many
/// real ones give 86 % (a PyTorch prototype with half of the discriminator's channels, 2,900 steps in 4 minutes on two
/// cores); what the quickstart measures is in `docs/log/results.md`. The default on CIFAR-10 is the published program's; a CPU
/// does not finish it.
///
/// Everything random in a step follows from the seed and the step's number. A run that was cut goes on from the last saved
/// state, and ends with the same bytes as one that was not.
///
/// # Errors
/// [`Error::Config`] when `config` does not fit the data, [`Error::NonFinite`] when a loss, a logit or a weight is no finite
/// number (looked at every `log_every` steps and before each checkpoint; never masked), [`Error::Interrupted`] when asked to
/// stop: the state is saved then.
pub fn train(
    config: &GanConfig,
    data: &dyn Rows,
    device: &Device,
    out: &mut ArtifactWriter,
    cx: &Context,
) -> Result<GeneratorInfo> {
    let info = data.info();
    let (image, classes, n) = (info.image, info.classes.len(), config.batch);
    config.check(&image, classes, data.len() as u64)?;
    let schedule = config.schedule(data.len() as u64);
    let latent = config.architecture.latent();
    let stream = Stream::new(config.seed).child("train-gan");

    let mut players = Players::new(config, &image, classes, device, &stream.child("init"))?;
    let mut sampler = Sampler::new(&config.architecture, &image, &info.classes, device)?;
    let mut batches = Batches::new(data, n, config.flip, stream.child("real"));
    let draws = |name: &str, step: u64, turn: u64, n: usize| -> Option<Draws> {
        let stream = stream.child("augment").child(name).at(step).at(turn);
        (!config.augment.is_empty()).then(|| Draws::new(n, image.height, image.width, &stream))
    };
    let shows = |done: u64| {
        schedule.checkpoints.binary_search(&done).is_ok() || config.sample_every.is_some_and(|k| done.is_multiple_of(k))
    };

    let start = resume(&mut players, out)?;
    for done in (1..=start).filter(|&done| shows(done)) {
        if schedule.checkpoints.binary_search(&done).is_ok() {
            out.add(&CheckpointInfo::new(done).file)?;
        }
        out.add(&samples_file(done))?;
    }
    let mut task = cx.progress.begin("train-gan", Some(schedule.steps));
    task.advance(start);
    let (mut begun, mut timed) = (Instant::now(), start);

    for step in start..schedule.steps {
        if let Err(stop) = cx.checkpoint() {
            save(&players, step, out)?;
            return Err(stop);
        }
        let (real, labels) = batches.get(step, device)?;
        let mut d_update = None;
        for turn in 0..config.d_steps {
            let z =
                latent_tensor(n, latent, &stream.child("d").at(step).at(turn), device).map_err(gafi_nn::Error::from)?;
            let draws = draws("d", step, turn, 2 * n);
            d_update = Some(players.update_discriminator(&real, &labels, &z, draws.as_ref())?);
        }
        let z = latent_tensor(n, latent, &stream.child("g").at(step), device).map_err(gafi_nn::Error::from)?;
        let g_loss = players.update_generator(&labels, &z, draws("g", step, 0, n).as_ref())?;
        players.ema.update(&players.g_params, step)?;

        let done = step + 1;
        task.advance(1);
        let is_checkpoint = schedule.checkpoints.binary_search(&done).is_ok();
        if done.is_multiple_of(config.log_every) || is_checkpoint {
            let losses = read_losses(step, d_update.as_ref(), &g_loss)?;
            check_weights(step, "generator", &players.g_params)?;
            check_weights(step, "discriminator", &players.d_params)?;
            task.note(&format!("D {:.3} G {:.3}", losses["d_loss"], losses["g_loss"]));
            let rate = (done - timed) as f64 / begun.elapsed().as_secs_f64().max(1e-9);
            out.log(&serde_json::json!({"event": "step", "step": done, "losses": losses, "steps_per_s": rate}))?;
            (begun, timed) = (Instant::now(), done);
        }
        if shows(done) {
            sampler.load(&bake(&players.ema.weights()?).map_err(gafi_nn::Error::from)?)?;
            if config.bn == BatchNorm::Standing {
                let stream = stream.child("standing").at(done);
                sampler.standing_statistics(config.standing_batches, n, &info.counts, &stream)?;
            }
            if is_checkpoint {
                let bytes = checkpoint::tensors_to_bytes(&sampler.state()?)?;
                out.write(&CheckpointInfo::new(done).file, &bytes)?;
            }
            let grid = samples(&mut sampler, classes, config.samples_per_class, &stream.child("samples"))?;
            out.write(&samples_file(done), &png_grid(&grid, &image, config.samples_per_class)?)?;
        }
        // After the files that belong to it: a crash in between makes them again.
        if is_checkpoint || done.is_multiple_of(config.save_every) {
            save(&players, done, out)?;
        }
    }

    out.write(TRAINING, &checkpoint::tensors_to_bytes(&state(&players, schedule.steps)?)?)?;
    let info = GeneratorInfo {
        architecture: config.architecture.clone(),
        image,
        classes: info.classes.clone(),
        latent_dim: latent,
        bn: Some(config.bn),
        steps_per_epoch: Some(schedule.steps_per_epoch),
        checkpoints: schedule.checkpoints.iter().map(|&step| CheckpointInfo::new(step)).collect(),
        training: Some(TRAINING.into()),
    };
    out.set_content(&info)?;
    Ok(info)
}

/// Loads what an earlier process saved, and says how many steps it had done.
fn resume(players: &mut Players, out: &ArtifactWriter) -> Result<u64> {
    let Some(bytes) = out.load_state(STATE)? else { return Ok(0) };
    let state = checkpoint::bytes_to_tensors(&bytes, &Device::Cpu)?;
    players.load(&state)?;
    let step = checkpoint::count(&state, "step")?;
    tracing::info!(step, "going on");
    Ok(step)
}

fn state(players: &Players, step: u64) -> Result<BTreeMap<String, Tensor>> {
    let mut state = players.state()?;
    checkpoint::add_count(&mut state, "step", step)?;
    Ok(state)
}

fn save(players: &Players, step: u64, out: &ArtifactWriter) -> Result<()> {
    out.save_state(STATE, &checkpoint::tensors_to_bytes(&state(players, step)?)?)
}

/// Losses and mean logits by name; an error if one is not finite. Hinge's relu would hide a NaN, the logits do not.
fn read_losses(step: u64, d: Option<&DUpdate>, g_loss: &Tensor) -> Result<BTreeMap<&'static str, f64>> {
    let mut found = BTreeMap::new();
    let mut read = |term: &'static str, tensor: &Tensor| -> Result<()> {
        let value = tensor.mean_all().and_then(|mean| mean.to_scalar::<f32>()).map_err(gafi_nn::Error::from)?;
        if !value.is_finite() {
            return Err(Error::NonFinite { step, term: term.into(), value: value.into() });
        }
        found.insert(term, value.into());
        Ok(())
    };
    if let Some(d) = d {
        read("d_real", &d.real)?;
        read("d_fake", &d.fake)?;
        read("d_loss", &d.loss)?;
    }
    read("g_loss", g_loss)?;
    Ok(found)
}

fn check_weights(step: u64, network: &str, params: &Params) -> Result<()> {
    for (name, var) in params.vars().chain(params.buffers()) {
        let values =
            var.as_detached_tensor().flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(gafi_nn::Error::from)?;
        if let Some(&value) = values.iter().find(|value| !value.is_finite()) {
            return Err(Error::NonFinite { step, term: format!("{network}.{name}"), value: value.into() });
        }
    }
    Ok(())
}

/// `columns` images of each of the first `classes`, class after class, from latents of their own streams.
pub(crate) fn samples(sampler: &mut Sampler, classes: usize, columns: usize, stream: &Stream) -> Result<Vec<u8>> {
    let (mut z, mut labels) = (Vec::new(), Vec::new());
    for class in ClassId::all(classes) {
        for column in 0..columns as u64 {
            z.extend(latents(1, sampler.latent_dim(), &stream.at(class.0.into()).at(column)));
            labels.push(class);
        }
    }
    sampler.generate(&z, &labels)
}
