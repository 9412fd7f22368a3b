//! The adapter with sources and teachers whose verdicts are known.

use std::num::NonZeroUsize;

use gafi_core::{Batch, ClassId, ClassTally, Error, ImageSpec, MemoryDataset, Result, SampleSource, Split, Tally};
use gafi_filter::{FilterRule, Filtered, OnExhausted, PATIENCE, RowsSource, scorer_fn};
use proptest::prelude::*;

const CLASSES: usize = 3;

fn n(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

fn class_names() -> Vec<String> {
    ["cat", "dog", "eel"].map(String::from).to_vec()
}

/// An endless source. A sample's two bytes are its class and a number drawn from its name; it hands over at most `most` at
/// a time, however many are asked for.
#[derive(Debug)]
struct Numbered {
    image: ImageSpec,
    classes: Vec<String>,
    next: Vec<u64>,
    most: usize,
}

fn numbered(most: usize) -> Numbered {
    Numbered { image: ImageSpec::new(1, 1, 2), classes: class_names(), next: vec![0; CLASSES], most }
}

/// A number that looks drawn, from a sample's name.
fn byte(class: u32, id: u64) -> u8 {
    let z = (id * 3 + u64::from(class) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 56) as u8
}

impl SampleSource for Numbered {
    fn image(&self) -> &ImageSpec {
        &self.image
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn pull(&mut self, class: ClassId, max: NonZeroUsize) -> Result<Option<Batch>> {
        let next = &mut self.next[class.index()];
        let ids: Vec<u64> = (*next..*next + max.get().min(self.most) as u64).collect();
        *next += ids.len() as u64;
        let images = ids.iter().flat_map(|&id| [class.0 as u8, byte(class.0, id)]).collect();
        Ok(Some(Batch { labels: vec![class; ids.len()], images, ids, ..Batch::default() }))
    }
    fn tally(&self) -> Tally {
        Tally { classes: self.next.iter().map(|&n| ClassTally { drawn: n, accepted: n, let_in: 0 }).collect() }
    }
    fn position(&self) -> Vec<u64> {
        self.next.clone()
    }
    fn seek(&mut self, position: &[u64], tally: &Tally) -> Result<()> {
        // A source may rely on its own tally coming back with its own position.
        assert_eq!(position, tally.classes.iter().map(|t| t.drawn).collect::<Vec<_>>());
        self.next = position.to_vec();
        Ok(())
    }
}

/// Gives the class in the first byte the probability of the second byte, of 255, and the rest to the class after it.
fn teacher(pixels: &[u8]) -> Result<Vec<f32>> {
    Ok(pixels
        .chunks(2)
        .flat_map(|p| {
            let (class, sure) = (usize::from(p[0]), f32::from(p[1]) / 255.0);
            let mut row = [0.0; CLASSES];
            row[class] = sure;
            row[(class + 1) % CLASSES] = 1.0 - sure;
            row
        })
        .collect())
}

fn filtered(most: usize, rule: FilterRule) -> Filtered<Numbered, impl gafi_core::Scorer> {
    Filtered::new(numbered(most), scorer_fn(ImageSpec::new(1, 1, 2), CLASSES, teacher), rule).unwrap()
}

/// The rule, said again and simply: ids that are handed over for `class`, with the tally after each, among `draws` draws.
fn reference(rule: &FilterRule, class: u32, draws: u64) -> (Vec<(u64, ClassTally)>, bool) {
    let (mut out, mut tally) = (Vec::new(), ClassTally::default());
    for id in 0..draws {
        let sure = f32::from(byte(class, id)) / 255.0;
        tally.drawn += 1;
        // Of equals the first class wins, and eel (2) shares with cat (0).
        let likeliest = if class == 2 { sure > 1.0 - sure } else { sure >= 1.0 - sure };
        let done = tally.accepted + tally.let_in;
        if likeliest && f64::from(sure) > rule.threshold {
            tally.accepted += 1;
        } else if rule.max_attempts == 0 || tally.drawn < rule.max_attempts * (done + PATIENCE) {
            continue;
        } else if rule.on_exhausted == OnExhausted::LetIn {
            tally.let_in += 1;
        } else {
            return (out, true);
        }
        out.push((id, tally));
    }
    (out, false)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_handed_over_follows_from_the_stream_alone(
        pulls in prop::collection::vec((0u32..3, 1usize..80), 1..10),
        most in prop::sample::select(vec![1usize, 7, 64, 500]),
        cuts in prop::collection::vec(any::<bool>(), 10),
        threshold in prop::sample::select(vec![0.0, 0.5, 0.8, 0.97]),
        max_attempts in prop::sample::select(vec![0u64, 1, 2, 5]),
        let_in in any::<bool>(),
    ) {
        let on_exhausted = if let_in { OnExhausted::LetIn } else { OnExhausted::Error };
        let rule = FilterRule { threshold, max_attempts, on_exhausted, ..FilterRule::default() };
        let expected: Vec<_> = (0..3).map(|class| reference(&rule, class, 40_000)).collect();
        let (mut source, mut done) = (filtered(most, rule), [0usize; CLASSES]);
        let mut tally = Tally::new(CLASSES);
        for (&(class, max), &cut) in pulls.iter().zip(&cuts) {
            if cut {
                // As after an interruption, here even with an inner source of other habits.
                let (position, tally) = (source.position(), source.tally());
                source = filtered(most, rule);
                source.seek(&position, &tally).unwrap();
                prop_assert_eq!(source.position(), position);
            }
            let c = class as usize;
            let (all, ends) = &expected[c];
            match source.pull(ClassId(class), n(max)) {
                Ok(batch) => {
                    let batch = batch.unwrap();
                    prop_assert!(batch.len() == max || (*ends && done[c] + batch.len() == all.len()));
                    let part = &all[done[c]..done[c] + batch.len()];
                    prop_assert_eq!(&batch.ids, &part.iter().map(|p| p.0).collect::<Vec<_>>());
                    prop_assert!(batch.images.chunks(2).zip(part).all(|(p, (id, _))| p == [class as u8, byte(class, *id)]));
                    let sure: Vec<f32> = part.iter().map(|(id, _)| f32::from(byte(class, *id)) / 255.0).collect();
                    prop_assert_eq!(batch.confidence.unwrap(), sure);
                    done[c] += part.len();
                    tally.classes[c] = part.last().unwrap().1;
                }
                Err(Error::Exhausted { class: named, name, wanted, drawn, accepted }) => {
                    prop_assert!(*ends && done[c] == all.len());
                    prop_assert_eq!((named, name), (ClassId(class), class_names()[c].clone()));
                    prop_assert_eq!(accepted, done[c] as u64);
                    prop_assert_eq!(wanted, (done[c] + max) as u64);
                    prop_assert_eq!(drawn, max_attempts * (accepted + PATIENCE));
                }
                Err(other) => panic!("{other}"),
            }
            prop_assert_eq!(source.tally(), tally.clone());
        }
    }

    #[test]
    fn filters_nest_and_go_on(cut in 0usize..6, max in 1usize..50) {
        let outer_rule = FilterRule { threshold: 0.9, ..FilterRule::default() };
        let make = || {
            let inner = filtered(64, FilterRule { threshold: 0.6, ..FilterRule::default() });
            Filtered::new(inner, scorer_fn(ImageSpec::new(1, 1, 2), CLASSES, teacher), outer_rule).unwrap()
        };
        let (mut whole, mut apart) = (make(), make());
        let (mut ids, mut last) = (Vec::new(), Vec::new());
        for i in 0..6 {
            if i == cut {
                let (position, tally) = (apart.position(), apart.tally());
                apart = make();
                apart.seek(&position, &tally).unwrap();
            }
            ids.extend(apart.pull(ClassId(1), n(max)).unwrap().unwrap().ids);
            last = apart.pull(ClassId(0), n(1)).unwrap().unwrap().ids;
        }
        prop_assert_eq!(whole.pull(ClassId(1), n(6 * max)).unwrap().unwrap().ids, ids);
        prop_assert_eq!(whole.pull(ClassId(0), n(6)).unwrap().unwrap().ids[5..].to_vec(), last);
        prop_assert_eq!(whole.tally(), apart.tally());
    }
}

#[test]
fn class_that_the_generator_does_not_know() {
    // Nothing is ever taken for class 1.
    let never = |pixels: &[u8]| Ok(pixels.chunks(2).flat_map(|_| [0.6, 0.1, 0.3]).collect());
    let source = |rule| Filtered::new(numbered(64), scorer_fn(ImageSpec::new(1, 1, 2), CLASSES, never), rule).unwrap();
    let rule = FilterRule { max_attempts: 10, ..FilterRule::default() };

    let mut strict = source(rule);
    let error = strict.pull(ClassId(1), n(40)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "class 1 (dog) is exhausted: wanted 40 samples, accepted 0 of 160 drawn; lower the threshold, raise max_attempts, \
         or set on_exhausted = \"let-in\""
    );
    assert_eq!(strict.pull(ClassId(1), n(40)).unwrap_err().to_string(), error.to_string(), "and stays so");
    assert_eq!(strict.pull(ClassId(0), n(40)).unwrap().unwrap().len(), 40, "the others go on");

    let mut lenient = source(FilterRule { on_exhausted: OnExhausted::LetIn, keep_probabilities: true, ..rule });
    let batch = lenient.pull(ClassId(1), n(40)).unwrap().unwrap();
    assert_eq!(batch.ids, (0..40).map(|i| 159 + 10 * i).collect::<Vec<_>>());
    assert_eq!(batch.confidence.unwrap(), [0.1; 40]);
    assert_eq!(batch.probabilities.unwrap()[..6], [0.6, 0.1, 0.3, 0.6, 0.1, 0.3]);
    assert_eq!(lenient.tally().classes[1], ClassTally { drawn: 550, accepted: 0, let_in: 40 });
}

#[test]
fn finite_source_ends() {
    let mut set = MemoryDataset::new(ImageSpec::new(1, 1, 2), class_names(), Split::Synthetic);
    for (class, sure) in [(0, 200), (1, 250), (0, 10), (0, 255), (1, 3)] {
        set.push(&[class, sure], ClassId(class.into()));
    }
    let mut source = RowsSource::new(set);
    assert!(source.pull(ClassId(3), n(1)).is_err());
    assert!(source.seek(&[4, 0, 0], &Tally::new(3)).is_err());
    assert!(source.seek(&[0, 0], &Tally::new(3)).is_err());
    source.seek(&[1, 0, 0], &Tally::new(3)).unwrap();
    assert_eq!(source.pull(ClassId(0), n(9)).unwrap().unwrap().ids, [2, 3]);
    source.seek(&[0, 0, 0], &Tally::new(3)).unwrap();

    let mut kept =
        Filtered::new(source, scorer_fn(ImageSpec::new(1, 1, 2), CLASSES, teacher), FilterRule::default()).unwrap();
    assert_eq!(kept.pull(ClassId(0), n(1)).unwrap().unwrap().ids, [0]);
    assert_eq!(kept.tally().classes[0], ClassTally { drawn: 1, accepted: 1, let_in: 0 });
    assert_eq!(kept.pull(ClassId(0), n(9)).unwrap().unwrap().ids, [3]);
    assert!(kept.pull(ClassId(0), n(9)).unwrap().is_none());
    assert!(kept.pull(ClassId(2), n(9)).unwrap().is_none());
    assert!(kept.pull(ClassId(3), n(9)).is_err());
}

#[test]
fn teacher_that_fails_once_loses_no_sample() {
    let mut asked = 0;
    let flaky = move |pixels: &[u8]| {
        asked += 1;
        if asked % 2 == 1 { Err(Error::other("asking")("the line is busy")) } else { teacher(pixels) }
    };
    let mut source =
        Filtered::new(numbered(64), scorer_fn(ImageSpec::new(1, 1, 2), CLASSES, flaky), FilterRule::default()).unwrap();
    let mut ids = Vec::new();
    while ids.len() < 100 {
        match source.pull(ClassId(0), n(20)) {
            Ok(batch) => ids.extend(batch.unwrap().ids),
            Err(e) => assert_eq!(e.to_string(), "asking"),
        }
    }
    assert_eq!(ids, filtered(64, FilterRule::default()).pull(ClassId(0), n(100)).unwrap().unwrap().ids);
}

#[test]
fn misfits_are_errors() {
    let image = ImageSpec::new(1, 1, 2);
    let new = |image, classes, rule| Filtered::new(numbered(64), scorer_fn(image, classes, teacher), rule).unwrap_err();
    assert!(new(ImageSpec::new(3, 1, 2), CLASSES, FilterRule::default()).to_string().contains("1x1x2"));
    assert!(new(image, 10, FilterRule::default()).to_string().contains("10 classes"));
    assert!(new(image, CLASSES, FilterRule { threshold: 1.0, ..FilterRule::default() }).is_usage());

    let pull = |score: fn(&[u8]) -> Result<Vec<f32>>| {
        let mut source = Filtered::new(numbered(64), scorer_fn(image, CLASSES, score), FilterRule::default()).unwrap();
        let error = source.pull(ClassId(2), n(1)).unwrap_err();
        let mut chain = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(e) = cause {
            chain = format!("{chain}: {e}");
            cause = e.source();
        }
        chain
    };
    assert_eq!(
        pull(|pixels| Ok(vec![f32::NAN; pixels.len() / 2 * CLASSES])),
        "sample 0 of class 2: judging a sample of class 2: expected probabilities from 0 to 1, found NaN for class 0"
    );
    assert_eq!(pull(|_| Ok(vec![])), "asking the teacher: expected 192 probabilities for 64 images, found 0");
    let mut source = filtered(64, FilterRule::default());
    assert!(source.seek(&[0; 5], &Tally::new(CLASSES)).is_err());
}
