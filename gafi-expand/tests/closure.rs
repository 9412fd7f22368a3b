//! A closure as a generator, and its samples on disk without a stage.
#![cfg(feature = "stage")]

use gafi_core::serde_json::json;
use gafi_core::{Artifact, ClassId, Dataset, Error, ImageSpec, Rows, SampleSource, Stream, save_samples};
use gafi_expand::{Expanded, StdRange, generator_fn};

/// Two classes of 1x1 images whose pixel is the class.
fn source(bytes_per_image: usize) -> impl SampleSource {
    let generator =
        generator_fn(ImageSpec::new(1, 1, 1), &["a", "b"], 3, move |latents: &[f32], labels: &[ClassId]| {
            assert_eq!(latents.len(), 3 * labels.len());
            Ok(labels.iter().flat_map(|label| vec![label.0 as u8; bytes_per_image]).collect())
        });
    Expanded::new(generator, StdRange::default(), Stream::new(1)).unwrap()
}

#[test]
fn samples_are_saved_reused_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("set");
    let made = save_samples(&mut source(1), 100, json!({"seed": 1}), &dest).unwrap();
    let set = Dataset::open(&Artifact::open(&dest).unwrap()).unwrap();
    assert_eq!((set.len(), &set.info().classes[..]), (200, &["a", "b"].map(String::from)[..]));
    let mut pixels = vec![9; 200];
    set.read(&(0..200).collect::<Vec<_>>(), &mut pixels).unwrap();
    assert!(set.labels().iter().zip(&pixels).all(|(label, pixel)| label.0 == u32::from(*pixel)));

    // The same description: the dataset is reused, and nothing is pulled from the source.
    let again = save_samples(&mut source(7), 100, json!({"seed": 1}), &dest).unwrap();
    assert_eq!(again.id(), made.id());
    for (per_class, seed) in [(101, 1), (100, 2)] {
        let error = save_samples(&mut source(1), per_class, json!({"seed": seed}), &dest).unwrap_err();
        assert!(matches!(error, Error::Occupied { .. }), "{error}");
    }
    let none = save_samples(&mut source(1), 0, json!({}), &dir.path().join("none")).unwrap_err();
    assert_eq!(none.to_string(), "per_class = 0: expected at least 1");
}

#[test]
fn a_closure_that_returns_too_many_bytes_is_an_error() {
    let error = source(2).pull(ClassId(0), std::num::NonZeroUsize::MIN).unwrap_err();
    let Error::Other { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.to_string(), "expected 64 bytes for 64 images of 1x1x1, found 128");
}
