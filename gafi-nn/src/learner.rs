//! Training of a classifier on labelled images, one epoch at a time.
//!
//! The order of the images and their augmentation follow from (seed, epoch, position) and need no saved state. A
//! snapshot holds parameters, batch-norm buffers, the optimiser's moments, the moving average and the counters, so a
//! resumed training ends with the same bytes as an uninterrupted one. A second thread reads and augments images one
//! batch ahead of the network.

use std::collections::BTreeMap;
use std::sync::mpsc::{SyncSender, sync_channel};

use candle_core::{D, DType, Device, Tensor};
use gafi_core::{
    ArchitectureSpec, EpochReport, Error as CoreError, ImageSpec, Learner, Rows, RunControl, Scorer, Stream, stream,
};
use gafi_kernels::{DropGuard, ops, to_host};

use crate::airbench::Airbench;
use crate::checkpoint;
use crate::classifier::ClassifierNet;
use crate::config::{ClassifierConfig, Distill};
use crate::ema::Ema;
use crate::error::{Error, Result};
use crate::layers::Mode;
use crate::lookahead::Lookahead;
use crate::loss::smoothed_cross_entropy;
use crate::optim::Optimizer;
use crate::params::Params;
use crate::schedule::Schedule;
use crate::scorer::ClassifierScorer;

/// Steps between two reads of the losses. Each read makes the host wait for a GPU.
const READ_EVERY: usize = 16;

/// A classifier in training.
pub struct ClassifierLearner {
    _guard: DropGuard,
    config: ClassifierConfig,
    schedule: Schedule,
    image: ImageSpec,
    classes: usize,
    device: Device,
    stream: Stream,
    params: Params,
    net: ClassifierNet,
    optimizer: Box<dyn Optimizer>,
    average: Option<Average>,
    lookahead: Option<Lookahead>,
    /// Whether it began with trained weights.
    started: bool,
    epoch: u32,
    step: u64,
}

/// The moving average of the weights, and a network to evaluate it with.
struct Average {
    ema: Ema,
    params: Params,
    net: ClassifierNet,
}

/// A batch of training images.
struct TrainBatch {
    /// Augmented images (N, C, H, W) in [-1, 1].
    values: Vec<f32>,
    /// Labels (N).
    labels: Vec<u32>,
    /// Soft labels (N, classes) at the temperature of the distillation; empty without distillation.
    soft: Vec<f32>,
}

impl ClassifierLearner {
    /// An untrained classifier for images of shape `image` in `classes` classes. Everything random follows from `seed`.
    ///
    /// # Errors
    /// [`gafi_core::Error::Config`] when `config` is out of range or does not support the images.
    pub fn new(config: ClassifierConfig, image: ImageSpec, classes: usize, seed: u64, device: &Device) -> Result<Self> {
        config.check()?;
        config.check_data(&image, classes)?;
        let stream = Stream::new(seed).child("classifier");
        let build = || -> Result<(Params, ClassifierNet)> {
            let mut params = Params::new(device, stream.child("init"));
            let mut net = ClassifierNet::new(&mut params.root(), &config.architecture, &image, classes)?;
            net.set_precision(config.dtype.precision(device));
            Ok((params, net))
        };
        let (params, net) = build()?;
        let average = config.ema.map(|ema| -> Result<Average> {
            let ema = Ema::new(&params, ema)?;
            let (params, net) = build()?;
            Ok(Average { ema, params, net })
        });
        let average = average.transpose()?;
        let optimizer = config.optimizer(&params)?;
        let lookahead = config.lookahead.map(|lookahead| Lookahead::new(&params, lookahead)).transpose()?;
        let schedule = config.schedule();
        let device = device.clone();
        Ok(Self {
            _guard: DropGuard::new(&device),
            config,
            schedule,
            image,
            classes,
            device,
            stream,
            params,
            net,
            optimizer,
            average,
            lookahead,
            started: false,
            epoch: 0,
            step: 0,
        })
    }

    /// Number of optimiser steps so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The current parameters and buffers, not averaged.
    pub fn params(&self) -> &Params {
        &self.params
    }

    fn check_rows(&self, data: &dyn Rows) -> Result<()> {
        let info = data.info();
        let wrong = |expected: String, found: String| {
            Err(CoreError::Input { stage: "train-classifier".into(), port: "train".into(), expected, found }.into())
        };
        if info.image != self.image || info.classes.len() != self.classes {
            return wrong(
                format!("{} classes of {} images", self.classes, self.image),
                format!("{} classes of {} images", info.classes.len(), info.image),
            );
        }
        if data.is_empty() {
            return wrong("at least one image".into(), "an empty dataset".into());
        }
        if self.config.distill.is_some() && data.probabilities(&[0])?.is_none() {
            let expected = "soft labels (a teacher's probabilities) for the distillation";
            let found = "none; give a teacher, or store them with the filter's keep_probabilities";
            return wrong(expected.into(), found.into());
        }
        Ok(())
    }

    /// Sets the averages to the current parameters.
    fn restart_averages(&mut self) -> Result<()> {
        if let Some(average) = &mut self.average {
            average.ema.move_by(&self.params, 0.0)?;
        }
        if let Some(lookahead) = &mut self.lookahead {
            lookahead.average.move_by(&self.params, 0.0)?;
        }
        Ok(())
    }

    /// Runs one optimiser step and returns the mean loss and the number of correct predictions, both still on the
    /// device.
    fn train_step(&mut self, batch: TrainBatch, lr: f64, total: u64) -> Result<(Tensor, Tensor)> {
        let ImageSpec { channels, height, width } = self.image;
        let x = Tensor::from_vec(batch.values, (batch.labels.len(), channels, height, width), &self.device)?;
        let logits = self.net.forward(&x, Mode::Train)?;
        let hard = smoothed_cross_entropy(&logits, &batch.labels, self.config.label_smoothing)?;
        let loss = match self.config.distill {
            None => hard,
            Some(Distill { weight, temperature: t }) => {
                let soft = (ops::soft_cross_entropy(&(&logits / t)?, batch.soft)? * (weight * t * t))?;
                ((hard * (1.0 - weight))? + soft)?
            }
        };
        let mut gradients = loss.backward()?;
        if self.epoch >= self.config.whitening_epochs {
            for (_, var) in self.params.vars().filter(|(name, _)| Airbench::is_whitening_bias(name)) {
                gradients.remove(var);
            }
        }
        self.optimizer.step(&gradients, lr)?;
        if let Some(average) = &mut self.average {
            average.ema.update(&self.params, self.step)?;
        }
        self.step += 1;
        if let Some(lookahead) = &mut self.lookahead {
            lookahead.update(&self.params, self.step, total)?;
        }
        let labels = Tensor::from_vec(batch.labels, logits.dim(0)?, &self.device)?;
        let right = logits.detach().argmax(D::Minus1)?.eq(&labels)?.to_dtype(DType::F32)?.sum_all()?;
        Ok((loss.detach(), right))
    }
}

/// Reads and augments batches on its own thread.
struct Loader {
    config: ClassifierConfig,
    /// With alternating flips: whether row `i` is mirrored in even epochs follows from the stream `at(i)`; and whether this
    /// epoch is odd.
    flips: Option<(Stream, bool)>,
    image: ImageSpec,
    classes: usize,
    /// Image `i` of the epoch draws from `draws.at(i)`.
    draws: Stream,
}

impl Loader {
    /// The soft labels of `rows` at the temperature of the distillation; empty without distillation.
    fn soft(&self, data: &dyn Rows, rows: &[usize]) -> gafi_core::Result<Vec<f32>> {
        let Some(Distill { temperature, .. }) = self.config.distill else { return Ok(Vec::new()) };
        let missing = || CoreError::other("reading soft labels")("expected a teacher's probabilities, found none");
        let mut soft = data.probabilities(rows)?.ok_or_else(missing)?;
        for p in soft.chunks_exact_mut(self.classes) {
            p.iter_mut().for_each(|p| *p = p.powf(1.0 / temperature as f32));
            let sum = p.iter().sum::<f32>();
            if sum <= 0.0 {
                return Err(missing());
            }
            p.iter_mut().for_each(|p| *p /= sum);
        }
        Ok(soft)
    }

    /// Sends the batches of `order` until all are sent, one fails, or the receiver is gone.
    fn run(&self, data: &dyn Rows, order: &[usize], send: &SyncSender<gafi_core::Result<TrainBatch>>) {
        let mut pixels = Vec::new();
        for (number, rows) in order.chunks(self.config.batch).enumerate() {
            pixels.resize(rows.len() * self.image.bytes(), 0);
            let first = (number * self.config.batch) as u64;
            let mirrored: Option<Vec<bool>> = self.flips.as_ref().map(|(stream, odd)| {
                let even = |row: &usize| stream::below(&mut stream.at(*row as u64).rng(), 2) == 1;
                rows.iter().map(|row| even(row) != *odd).collect()
            });
            let batch = data.read(rows, &mut pixels).and_then(|()| {
                Ok(TrainBatch {
                    values: self.config.augment.apply(&pixels, &self.image, &self.draws, first, mirrored.as_deref()),
                    labels: rows.iter().map(|row| data.label(*row).0).collect(),
                    soft: self.soft(data, rows)?,
                })
            });
            let failed = batch.is_err();
            if send.send(batch).is_err() || failed {
                return;
            }
        }
    }
}

/// Sums of losses and correct predictions over an epoch, read from the device every few steps.
#[derive(Default)]
struct Tally {
    loss: f64,
    right: f64,
    images: u64,
    /// Step, images, mean loss and correct predictions of steps not read yet.
    pending: Vec<(u64, usize, Tensor, Tensor)>,
}

impl Tally {
    fn read(&mut self) -> Result<()> {
        for (step, images, loss, right) in self.pending.drain(..) {
            let loss = f64::from(to_host(&loss)?.to_scalar::<f32>()?);
            if !loss.is_finite() {
                return Err(CoreError::NonFinite { step, term: "the classifier's loss".into(), value: loss }.into());
            }
            self.loss += loss * images as f64;
            self.right += f64::from(to_host(&right)?.to_scalar::<f32>()?);
            self.images += images as u64;
        }
        Ok(())
    }
}

impl Learner for ClassifierLearner {
    fn epochs(&self) -> u32 {
        self.config.epochs
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn train_epoch(&mut self, data: &dyn Rows, control: &RunControl) -> gafi_core::Result<EpochReport> {
        self.check_rows(data)?;
        let number = u64::from(self.epoch);
        let order = &stream::permutation(data.len(), &self.stream.child("order").at(number));
        if self.step == 0 && !self.started {
            // Airbench computes its whitening from images of the first epoch, unless it started from trained weights.
            self.net.prepare(data, order)?;
            self.restart_averages()?;
        }
        let loader = Loader {
            config: self.config.clone(),
            // The same bit for a row in each epoch.
            flips: self.config.augment.alternate_flip.then(|| (self.stream.child("flip"), number % 2 == 1)),
            image: self.image,
            classes: self.classes,
            draws: self.stream.child("augment").at(number),
        };
        let steps = order.len().div_ceil(self.config.batch);
        let total = u64::from(self.config.epochs) * steps as u64;
        let mut tally = Tally::default();
        std::thread::scope(|scope| -> gafi_core::Result<()> {
            let (send, receive) = sync_channel(1);
            scope.spawn(move || loader.run(data, order, &send));
            for step in 0..steps {
                control.checkpoint()?;
                // The loader ends early only if it panics, and the scope passes the panic on.
                let Ok(batch) = receive.recv() else { break };
                let batch: TrainBatch = batch?;
                let images = batch.labels.len();
                let number = self.step;
                let (loss, right) = self.train_step(batch, self.schedule.lr(self.epoch, step, steps), total)?;
                tally.pending.push((number, images, loss, right));
                if tally.pending.len() == READ_EVERY || step + 1 == steps {
                    tally.read()?;
                }
            }
            Ok(())
        })?;
        self.epoch += 1;
        let images = tally.images as f64;
        Ok(EpochReport { loss: tally.loss / images, accuracy: tally.right / images, images: tally.images })
    }

    fn scorer(&mut self) -> gafi_core::Result<Box<dyn Scorer + '_>> {
        let net = match &self.average {
            Some(average) => {
                average.params.load(&average.ema.weights()?)?;
                &average.net
            }
            None => &self.net,
        };
        Ok(Box::new(ClassifierScorer::new(net.clone(), self.image, &self.device)?))
    }

    fn snapshot(&self) -> gafi_core::Result<Vec<u8>> {
        let mut state = BTreeMap::new();
        checkpoint::add_section(&mut state, "net", self.params.state()?);
        checkpoint::add_section(&mut state, "optimizer", self.optimizer.state()?);
        if let Some(average) = &self.average {
            checkpoint::add_section(&mut state, "ema", average.ema.weights()?);
        }
        if let Some(lookahead) = &self.lookahead {
            checkpoint::add_section(&mut state, "lookahead", lookahead.average.weights()?);
        }
        checkpoint::add_count(&mut state, "epoch", u64::from(self.epoch))?;
        checkpoint::add_count(&mut state, "step", self.step)?;
        Ok(checkpoint::tensors_to_bytes(&state)?)
    }

    fn restore(&mut self, snapshot: &[u8]) -> gafi_core::Result<()> {
        let state = checkpoint::bytes_to_tensors(snapshot, &Device::Cpu)?;
        let epoch = checkpoint::count(&state, "epoch")?;
        let epoch = u32::try_from(epoch).map_err(|_| Error::State {
            what: "state".into(),
            name: "epoch".into(),
            expected: "a number of epochs".into(),
            found: epoch.to_string(),
        })?;
        let step = checkpoint::count(&state, "step")?;
        self.params.load(&checkpoint::section(&state, "net"))?;
        self.optimizer.load(&checkpoint::section(&state, "optimizer"))?;
        if let Some(average) = &mut self.average {
            average.ema.load(&checkpoint::section(&state, "ema"))?;
        }
        if let Some(lookahead) = &mut self.lookahead {
            lookahead.average.load(&checkpoint::section(&state, "lookahead"))?;
        }
        self.epoch = epoch;
        self.step = step;
        Ok(())
    }

    fn weights(&self) -> gafi_core::Result<Vec<u8>> {
        let weights = match &self.average {
            Some(average) => average.ema.weights()?,
            None => self.params.state()?,
        };
        Ok(checkpoint::tensors_to_bytes(&weights)?)
    }

    fn begin_with(&mut self, weights: &[u8]) -> gafi_core::Result<()> {
        self.started = true;
        self.params.load(&checkpoint::bytes_to_tensors(weights, &Device::Cpu)?)?;
        Ok(self.restart_averages()?)
    }

    fn architecture(&self) -> ArchitectureSpec {
        // Plain data with string keys always has a JSON form.
        ArchitectureSpec::of(&self.config.architecture).unwrap_or_default()
    }
}
