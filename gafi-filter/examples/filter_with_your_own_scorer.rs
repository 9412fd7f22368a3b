//! Filters a dataset folder with a scorer of your own, in a program that knows no network library.
//!
//! ```text
//! cargo run -p gafi-filter --example filter_with_your_own_scorer -- SAMPLES FILTERED
//! ```
//! SAMPLES is any dataset artifact with two classes, FILTERED the folder to write. The closure judges the second class by
//! lightness; put your network, a remote service or a formula in its place.
#![allow(clippy::print_stdout)] // An example prints its result.

use gafi_core::{Artifact, Context, DatasetInfo, Error, Inputs, Result, execute};
use gafi_filter::{Filter, FilterRule, FilterWith, scorer_fn};

fn main() -> Result<()> {
    let folders: Vec<_> = std::env::args().skip(1).collect();
    let [samples, filtered] = &folders[..] else {
        return Err(Error::config("arguments", folders.len(), "two folders, SAMPLES and FILTERED"));
    };
    let samples = Artifact::open(samples)?;
    let image = DatasetInfo::of(&samples)?.image;

    let scorer = scorer_fn(image, 2, move |pixels: &[u8]| {
        let light = pixels.chunks(image.bytes()).map(|p| p.iter().map(|&v| f32::from(v)).sum::<f32>() / p.len() as f32);
        Ok(light.flat_map(|light| [1.0 - light / 255.0, light / 255.0]).collect())
    });
    let filter = Filter { rule: FilterRule { max_attempts: 0, ..FilterRule::with_threshold(0.6) }, per_class: None };
    let stage = FilterWith::new("lightness, version 1", scorer, filter);
    let inputs = Inputs::new().with("samples", &samples);
    let made = execute(&stage, &inputs, filtered.as_ref(), &Context::default())?;

    println!("kept {} of {} rows", DatasetInfo::of(&made.artifact)?.rows(), DatasetInfo::of(&samples)?.rows());
    Ok(())
}
