//! Scores: evaluation, which set gives which score, and which score chooses.

use gafi_core::*;
use serde_json::json;

use crate::common::IMAGE;

/// A classifier that answers from the first pixel: a table of probabilities.
pub(crate) struct Table {
    pub(crate) image: ImageSpec,
    pub(crate) classes: usize,
    pub(crate) answers: Vec<Vec<f32>>,
}

impl Scorer for Table {
    fn image(&self) -> &ImageSpec {
        &self.image
    }
    fn classes(&self) -> usize {
        self.classes
    }
    fn score(&mut self, pixels: &[u8]) -> Result<Vec<f32>> {
        Ok(pixels.chunks(self.image.bytes()).flat_map(|p| self.answers[p[0] as usize].clone()).collect())
    }
}

/// A set whose first pixel is the number of the row.
pub(crate) fn numbered(split: Split, labels: &[u32], classes: usize) -> MemoryDataset {
    let mut set = MemoryDataset::new(IMAGE, (0..classes).map(|c| format!("c{c}")).collect(), split);
    for (row, &label) in labels.iter().enumerate() {
        set.push(&[row as u8; 6], ClassId(label));
    }
    set
}

fn table(answers: &[&[f32]]) -> Table {
    Table { image: IMAGE, classes: answers[0].len(), answers: answers.iter().map(|a| a.to_vec()).collect() }
}

#[test]
fn features_are_optional_and_pass_through_a_box() {
    struct Means(Table);
    impl Scorer for Means {
        fn image(&self) -> &ImageSpec {
            self.0.image()
        }
        fn classes(&self) -> usize {
            self.0.classes()
        }
        fn score(&mut self, pixels: &[u8]) -> Result<Vec<f32>> {
            self.0.score(pixels)
        }
        fn feature_dim(&self) -> Option<usize> {
            Some(1)
        }
        fn score_with_features(&mut self, pixels: &[u8]) -> Result<Scored> {
            Ok(Scored { probabilities: self.score(pixels)?, features: vec![7.0; pixels.len() / 6] })
        }
    }
    fn ask(mut scorer: impl Scorer) -> (Option<usize>, Result<Scored>) {
        (scorer.feature_dim(), scorer.score_with_features(&[0; 12]))
    }
    let (dim, scored) = ask(Box::new(Means(table(&[&[0.4, 0.6]]))) as Box<dyn Scorer>);
    let expected = Scored { probabilities: vec![0.4, 0.6, 0.4, 0.6], features: vec![7.0; 2] };
    assert_eq!((dim, scored.unwrap()), (Some(1), expected));
    let (dim, scored) = ask(table(&[&[1.0]]));
    assert!(dim.is_none() && scored.is_err());
}

#[test]
fn an_evaluation_counts_each_image_once() {
    let set = numbered(Split::Test, &[0, 0, 0, 1, 1, 2], 3);
    let a: &[f32] = &[0.8, 0.1, 0.1];
    let (b, c): (&[f32], &[f32]) = (&[0.2, 0.5, 0.3], &[0.0, 0.0, 1.0]);
    // The first on a tie.
    let tie: &[f32] = &[0.1, 0.45, 0.45];
    let found = evaluate(&mut table(&[a, a, b, b, tie, a, c]), &set, &Context::default()).unwrap();
    assert_eq!((found.n, found.accuracy), (6, 4.0 / 6.0));
    assert_eq!(found.per_class, [2.0 / 3.0, 1.0, 0.0]);
    assert_eq!(found.confusion, [[2, 1, 0], [0, 2, 0], [1, 0, 0]]);
    // Beyond one batch of 256.
    let labels: Vec<u32> = (0..1000).map(|i| u32::from(i % 256 == 3)).collect();
    let answers = vec![vec![1.0, 0.0]; 256];
    let found = evaluate(
        &mut Table { image: IMAGE, classes: 2, answers },
        &numbered(Split::Val, &labels, 2),
        &Context::default(),
    );
    assert_eq!(found.unwrap().confusion, [[996, 0], [4, 0]]);
}

#[test]
fn predictions_are_evaluated_like_a_scorer() {
    let labels = [0, 0, 1, 1, 2, 2, 2];
    let set = numbered(Split::Val, &labels, 4);
    let predicted = [0, 1, 1, 1, 0, 2, 3];
    let answers = predicted.map(|class| (0..4).map(|c| f32::from(u8::from(c == class))).collect::<Vec<_>>());
    let mut scorer = Table { image: IMAGE, classes: 4, answers: answers.to_vec() };
    let by_scorer = evaluate(&mut scorer, &set, &Context::default()).unwrap();
    assert_eq!(evaluate_labels(&predicted.map(ClassId), &set).unwrap(), by_scorer);
    assert_eq!((by_scorer.n, by_scorer.accuracy, by_scorer.per_class[3]), (7, 4.0 / 7.0, 0.0));
    let error = |predicted: &[u32]| {
        let predicted: Vec<ClassId> = predicted.iter().copied().map(ClassId).collect();
        evaluate_labels(&predicted, &set).unwrap_err().to_string()
    };
    assert!(error(&predicted[1..]).ends_with("predictions: expected one for each of 7 rows, found 6"));
    assert!(error(&[0, 1, 1, 4, 0, 2, 3]).ends_with("expected a class below 4 for row 3, found class 4"));
}

#[test]
fn an_evaluation_refuses_other_images_or_classes() {
    let set = numbered(Split::Test, &[0, 1, 0], 2);
    let fine: &[f32] = &[0.5, 0.5];
    let cx = Context::default();
    let error = evaluate(&mut table(&[&[1.0, 0.0, 0.0]]), &set, &cx).unwrap_err().to_string();
    assert!(error.contains("3 classes of 1x2x3 images") && error.contains("found 2 classes"), "{error}");
    let other = Table { image: ImageSpec::new(1, 3, 2), classes: 2, answers: Vec::new() };
    assert!(evaluate(&mut { other }, &set, &cx).unwrap_err().to_string().contains("1x3x2"));
    let error = evaluate(&mut table(&[fine, fine, &[f32::NAN, 0.0]]), &set, &cx).unwrap_err();
    assert!(matches!(error, Error::NonFinite { step: 2, .. }), "{error}");
    // Images that a scorer leaves out must not count as right or wrong.
    let error = evaluate(&mut table(&[fine, fine, &[]]), &set, &cx).unwrap_err().to_string();
    assert!(error.contains("2 probabilities for each of 3 images, found 4 values"), "{error}");
    cx.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(evaluate(&mut table(&[fine, fine, fine]), &set, &cx), Err(Error::Interrupted)));
}

#[test]
fn each_score_comes_from_its_own_split() {
    let set = |split| Box::new(numbered(split, &[0, 1], 2));
    for split in [Split::Train, Split::Val, Split::Test, Split::Synthetic] {
        let (val, test) = (ValSet::new(set(split)), TestSet::new(set(split)));
        assert_eq!((val.is_ok(), test.is_ok()), (split == Split::Val, split == Split::Test), "{split}");
        for error in [val.err(), test.err()].into_iter().flatten() {
            assert!(matches!(error, Error::Input { .. }) && error.is_usage());
            assert!(error.to_string().contains(&format!("found split {split}")), "{error}");
        }
    }
    let half: &[f32] = &[1.0, 0.0];
    let cx = Context::default();
    let val = ValSet::new(set(Split::Val)).unwrap().score(&mut table(&[half, half]), &cx).unwrap();
    let (test, evaluation) = TestSet::new(set(Split::Test)).unwrap().score(&mut table(&[half, half]), &cx).unwrap();
    assert_eq!((val.accuracy(), test.accuracy(), evaluation.accuracy), (0.5, 0.5, 0.5));
}

fn val(accuracy: f64) -> ValScore {
    serde_json::from_value(json!(accuracy)).unwrap()
}

#[test]
fn the_first_best_is_selected() {
    let best = |scores: &[f64]| select_best(scores.iter().map(|&s| val(s)).enumerate()).map(|(i, s)| (i, s.accuracy()));
    assert_eq!(best(&[]), None);
    assert_eq!(best(&[0.0]), Some((0, 0.0)));
    assert_eq!(best(&[0.2, 0.7, 0.7, 0.1]), Some((1, 0.7)));
    assert_eq!(best(&[0.2, 0.7, 0.7 + f64::EPSILON]), Some((2, 0.7 + f64::EPSILON)));
    assert_eq!(best(&[1.0, 1.0, 0.0]), Some((0, 1.0)));
}

#[test]
fn a_score_out_of_range_is_not_deserialised() {
    for text in ["1.0000001", "-0.1", "1e300", "null", "\"0.5\"", "[0.5]"] {
        assert!(serde_json::from_str::<ValScore>(text).is_err(), "{text}");
        assert!(serde_json::from_str::<TestScore>(text).is_err(), "{text}");
    }
    for accuracy in [0.0, 1.0, 2.0 / 3.0, 0.1 + 0.2] {
        assert_eq!(serde_json::to_string(&val(accuracy)).unwrap(), serde_json::to_string(&accuracy).unwrap());
        assert_eq!(val(accuracy).accuracy(), accuracy);
    }
}

#[test]
fn argmax_finds_the_first_largest_and_refuses_nan() {
    assert_eq!(argmax(&[]), None);
    assert_eq!(argmax(&[0.1, 0.9, 0.9]), Some(1));
    assert_eq!(argmax(&[f32::NEG_INFINITY, -1.0]), Some(1));
    for at in 0..3 {
        let mut values = [0.1, 0.2, 0.3];
        values[at] = f32::NAN;
        assert_eq!(argmax(&values), None);
    }
}

#[test]
fn tallies_add_up_and_do_not_overflow() {
    let mut tally = Tally::new(2);
    tally.classes[0] = ClassTally::new(5, 3, 1);
    tally.classes[1] = ClassTally::new(7, 4, 0);
    assert_eq!(tally.total(), ClassTally::new(12, 7, 1));
    tally.classes[1].drawn = u64::MAX;
    assert_eq!(tally.total().drawn, u64::MAX);
}
