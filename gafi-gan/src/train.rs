//! The training loop of a GAN.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use gafi_core::{
    ArchitectureSpec, ArtifactWriter, ClassId, Context, Error, Generator, GeneratorInfo, Result, Rows, Stream,
};
use gafi_kernels::to_host;
use gafi_nn::{ClassifierNet, Params, checkpoint};
use serde_json::json;

use crate::batches::{Batches, latent_tensor, latents};
use crate::config::{BatchNorm, GanConfig};
use crate::diffaugment::Draws;
use crate::grid::png_grid;
use crate::guidance::{Guidance, RealMoments};
use crate::info::{TRAINING, checkpoint_at, samples_file, weights_file};
use crate::length::GanSchedule;
use crate::players::{DUpdate, Players};
use crate::sampler::Sampler;
use crate::spectral::bake;

/// The state is saved at each checkpoint, and in between when the last save is older than this.
const SAVE_EVERY: Duration = Duration::from_secs(120);

/// Trains a GAN on `data`, guided by `teacher` as `config` says, and writes checkpoints and sample images to `out`.
///
/// Everything random in a step follows from the seed and the step's number. An interrupted training resumes from the
/// last saved state and ends with the same bytes as an uninterrupted one.
///
/// # Errors
/// [`Error::Config`] when `config` does not fit the data. [`Error::Input`] when it asks for guidance and there is no
/// `teacher`. [`Error::NonFinite`] when a loss, a logit or a weight is not a finite number; they are checked before
/// each log line and each checkpoint. [`Error::Interrupted`] when a stop was requested; the state is saved first.
pub fn train(
    config: &GanConfig,
    data: &dyn Rows,
    teacher: Option<ClassifierNet>,
    device: &Device,
    out: &mut ArtifactWriter,
    cx: &Context,
) -> Result<GeneratorInfo> {
    let info = data.info();
    let image = info.image;
    let classes = info.classes.len();
    let n = config.batch;
    config.check(&image, classes, data.len() as u64)?;
    if config.guidance.is_some() && teacher.is_none() {
        return Err(Error::config(
            "guidance",
            "set, without a teacher",
            "a teacher whose features guide the generator",
        ));
    }
    let GanSchedule { steps, steps_per_epoch, checkpoints } = config.schedule(data.len() as u64);
    // Steps between two log entries of the losses.
    let log_every = (steps / 100).clamp(1, 50);
    let latent = config.architecture.latent();
    let stream = Stream::new(config.seed).child("train-gan");

    let mut players = Players::new(config, &image, classes, device, &stream.child("init"))?;
    if let Some((config, teacher)) = config.guidance.zip(teacher) {
        let real = RealMoments::of(&teacher, data, &stream.child("moments"), device, cx)?;
        players.guidance = Some(Guidance::new(config, teacher, real));
    }
    let mut sampler = Sampler::new(&config.architecture, &image, &info.classes, device)?;
    let mut batches = Batches::new(data, n, config.drop_last, config.flip, stream.child("real"));
    let draws = |name: &str, step: u64, turn: u64, n: usize| -> Option<Draws> {
        let stream = stream.child("augment").child(name).at(step).at(turn);
        (!config.augment.is_empty()).then(|| Draws::new(n, image.height, image.width, &stream))
    };

    let checkpoints: Vec<u64> = config.save_untrained.then_some(0).into_iter().chain(checkpoints).collect();
    let is_checkpoint = |done: u64| checkpoints.binary_search(&done).is_ok();
    let writes_samples =
        |done: u64| is_checkpoint(done) || done > 0 && config.sample_every.is_some_and(|n| done.is_multiple_of(n));
    let mut write_files = |done: u64, players: &Players, out: &mut ArtifactWriter| -> Result<()> {
        sampler.load(&bake(&players.ema.weights()?).map_err(gafi_nn::Error::from)?)?;
        if config.bn == BatchNorm::Standing {
            let stream = stream.child("standing").at(done);
            sampler.standing_statistics(config.standing_batches, n, &info.counts, &stream)?;
        }
        if is_checkpoint(done) {
            let bytes = checkpoint::tensors_to_bytes(&sampler.state()?)?;
            out.write(&weights_file(done), &bytes)?;
        }
        let grid = samples(&mut sampler, classes, config.samples_per_class, &stream.child("samples"))?;
        out.write(&samples_file(done), &png_grid(&grid, &image, config.samples_per_class)?)
    };

    let start = resume(&mut players, out)?;
    if start == 0 && is_checkpoint(0) {
        write_files(0, &players, out)?;
    } else {
        for done in (0..=start).filter(|&done| writes_samples(done)) {
            if is_checkpoint(done) {
                out.add(&weights_file(done))?;
            }
            out.add(&samples_file(done))?;
        }
    }
    let mut task = cx.progress.begin("train-gan", Some(steps));
    task.advance(start);
    let mut logged = (Instant::now(), start);
    let mut saved = Instant::now();

    for step in start..steps {
        if let Err(stop) = cx.checkpoint() {
            save(&players, step, out)?;
            return Err(stop);
        }
        let (real, labels) = batches.get(step, device)?;
        let mut d_update = None;
        for turn in 0..config.d_steps {
            let z = latent_tensor(n, latent, &stream.child("d").at(step).at(turn), device)?;
            let draws = draws("d", step, turn, 2 * n);
            d_update = Some(players.update_discriminator(&real, &labels, &z, draws.as_ref())?);
        }
        let z = latent_tensor(n, latent, &stream.child("g").at(step), device)?;
        let g_loss = players.update_generator(&labels, &z, draws("g", step, 0, n).as_ref())?;
        players.ema.update(&players.g_params, step)?;

        let done = step + 1;
        task.advance(1);
        if done.is_multiple_of(log_every) || is_checkpoint(done) {
            let losses = read_losses(step, d_update.as_ref(), &g_loss)?;
            check_weights(step, "generator", &players.g_params)?;
            check_weights(step, "discriminator", &players.d_params)?;
            task.note(&format!("D {:.3} G {:.3}", losses["d_loss"], losses["g_loss"]));
            let (since, from) = logged;
            let rate = (done - from) as f64 / since.elapsed().as_secs_f64().max(1e-9);
            out.log(&serde_json::json!({"event": "step", "step": done, "losses": losses, "steps_per_s": rate}))?;
            logged = (Instant::now(), done);
        }
        if writes_samples(done) {
            write_files(done, &players, out)?;
        }
        // After the step's files, so that a crash before the save writes them again.
        if is_checkpoint(done) || saved.elapsed() >= SAVE_EVERY {
            save(&players, done, out)?;
            saved = Instant::now();
        }
    }

    out.write(TRAINING, &checkpoint::tensors_to_bytes(&state(&players, steps)?)?)?;
    let extra = [("bn", json!(config.bn)), ("steps_per_epoch", json!(steps_per_epoch)), ("training", json!(TRAINING))];
    let info = GeneratorInfo {
        architecture: ArchitectureSpec::of(&config.architecture)?,
        image,
        classes: info.classes.clone(),
        latent_dim: latent,
        std: None,
        checkpoints: checkpoints.iter().map(|&step| checkpoint_at(step)).collect(),
        extra: extra.into_iter().map(|(key, value)| (key.into(), value)).collect(),
    };
    out.set_content(&info)?;
    Ok(info)
}

/// Loads the state that an earlier process saved, and returns the number of steps done; 0 without one.
fn resume(players: &mut Players, out: &ArtifactWriter) -> Result<u64> {
    let Some(bytes) = out.load_state(TRAINING)? else { return Ok(0) };
    let state = checkpoint::bytes_to_tensors(&bytes, &Device::Cpu)?;
    players.load(&state)?;
    let step = checkpoint::count(&state, "step")?;
    tracing::info!(step, "resuming");
    Ok(step)
}

fn state(players: &Players, step: u64) -> Result<BTreeMap<String, Tensor>> {
    let mut state = players.state()?;
    checkpoint::add_count(&mut state, "step", step)?;
    Ok(state)
}

fn save(players: &Players, step: u64, out: &ArtifactWriter) -> Result<()> {
    out.save_state(TRAINING, &checkpoint::tensors_to_bytes(&state(players, step)?)?)
}

/// Losses and mean logits by name, checked to be finite. The logits are checked because the hinge loss's relu hides a
/// NaN.
fn read_losses(step: u64, d: Option<&DUpdate>, g_loss: &Tensor) -> Result<BTreeMap<&'static str, f64>> {
    let mut found = BTreeMap::new();
    let mut read = |term: &'static str, tensor: &Tensor| -> Result<()> {
        let value =
            tensor.mean_all().and_then(|mean| to_host(&mean)?.to_scalar::<f32>()).map_err(gafi_nn::Error::from)?;
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
        let values = var.as_detached_tensor().flatten_all().and_then(|t| to_host(&t)?.to_vec1::<f32>());
        let values = values.map_err(gafi_nn::Error::from)?;
        if let Some(&value) = values.iter().find(|value| !value.is_finite()) {
            return Err(Error::NonFinite { step, term: format!("{network}.{name}"), value: value.into() });
        }
    }
    Ok(())
}

/// Pixels of `columns` images of each of the first `classes`, class by class. Latents depend on class and column alone.
pub(crate) fn samples(sampler: &mut Sampler, classes: usize, columns: usize, stream: &Stream) -> Result<Vec<u8>> {
    let mut z = Vec::new();
    let mut labels = Vec::new();
    for class in ClassId::all(classes) {
        for column in 0..columns as u64 {
            z.extend(latents(1, sampler.latent_dim(), &stream.at(class.0.into()).at(column)));
            labels.push(class);
        }
    }
    sampler.generate(&z, &labels)
}
