//! `Filtered` with sources and teachers whose verdicts are known.

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gafi_core::{
    Batch, ClassId, ClassTally, Cursor, Error, ImageSpec, MemoryDataset, Mixed, Result, SAMPLE_BATCH, SampleSource,
    Split, Tally,
};
use gafi_filter::{Accept, Attempts, FilterRule, Filtered, OnExhausted, PATIENCE, RowsSource, scorer_fn};
use proptest::prelude::*;

const CLASSES: usize = 3;

fn n(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

fn class_names() -> Vec<String> {
    ["cat", "dog", "eel"].map(String::from).to_vec()
}

/// An endless source that hands over at most `most` samples at a time. A sample's two bytes are its class and a number
/// derived from class and id.
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

/// A pseudo-random number from class and id.
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
        Tally { classes: self.next.iter().map(|&n| ClassTally::new(n, n, 0)).collect() }
    }
    fn cursor(&self, class: ClassId) -> Cursor {
        at(self.next[class.index()])
    }
    fn seek(&mut self, class: ClassId, cursor: &Cursor) -> Result<()> {
        [self.next[class.index()]] = cursor.parts("numbered samples", 0)?.0;
        Ok(())
    }
}

/// The cursor of a source that counts.
fn at(next: u64) -> Cursor {
    Cursor::new([next], Vec::new())
}

/// The class in the first byte gets the probability (second byte / 255), the next class the rest.
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

/// The class that [`teacher`] predicts for a sample: its own class or the next one, and the lower index on a tie. The class
/// after eel (2) is cat (0), which wins that tie.
fn predicted(class: u32, id: u64) -> ClassId {
    let sure = f32::from(byte(class, id)) / 255.0;
    let likeliest = if class == 2 { sure > 1.0 - sure } else { sure >= 1.0 - sure };
    ClassId(if likeliest { class } else { (class + 1) % CLASSES as u32 })
}

/// The rule, written again in the simplest way: the ids handed over for `class` among `draws` draws, with the tally after
/// each, and whether the class is exhausted.
fn reference(rule: &FilterRule, class: u32, draws: u64) -> (Vec<(u64, ClassTally)>, bool) {
    let mut out = Vec::new();
    let mut tally = ClassTally::default();
    for id in 0..draws {
        let sure = f32::from(byte(class, id)) / 255.0;
        tally.drawn += 1;
        let taken_for = predicted(class, id);
        let passes = taken_for == ClassId(class) && f64::from(sure) > rule.threshold;
        let keeps = passes || rule.accept == Accept::Any;
        if !keeps {
            *tally.rejected_as.entry(taken_for).or_default() += 1;
        }
        let done = tally.accepted + tally.backfilled;
        if keeps {
            tally.accepted += 1;
        } else if rule.max_attempts == 0 || tally.drawn < rule.max_attempts * (done + PATIENCE) {
            continue;
        } else if rule.on_exhausted == OnExhausted::Backfill {
            tally.backfilled += 1;
        } else {
            return (out, true);
        }
        out.push((id, tally.clone()));
    }
    (out, false)
}

/// The released program's loop for one class and one set, starting at candidate `next`. Returns the candidates that
/// pass, at most `per_set`; how many unfiltered ones complete the set; and the candidate after the last round.
fn program(passes: impl Fn(u64) -> bool, mut next: u64, per_set: usize, max_rounds: u64) -> (Vec<u64>, usize, u64) {
    let mut kept = Vec::new();
    let mut rounds = 0;
    while kept.len() < per_set {
        let candidates = ((per_set - kept.len()) * if kept.is_empty() { 1 } else { 2 }) as u64;
        kept.extend((next..next + candidates).filter(|&id| passes(id)));
        next += candidates;
        rounds += 1;
        if max_rounds > 0 && rounds >= max_rounds {
            break;
        }
    }
    kept.truncate(per_set);
    let unfiltered = per_set - kept.len();
    (kept, unfiltered, next)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn rounds_are_those_of_the_papers_program(
        per_set in 1usize..70,
        max_rounds in prop::sample::select(vec![0u64, 1, 2, 3, 10]),
        threshold in prop::sample::select(vec![0.0, 0.5, 0.8, 0.97]),
        most in prop::sample::select(vec![1usize, 7, 500]),
        pulls in prop::collection::vec((1usize..40, any::<bool>()), 1..8),
        class in 0u32..3,
    ) {
        let rule = FilterRule {
            threshold, attempts: Attempts::Rounds, max_rounds, per_set: Some(per_set as u64),
            on_exhausted: OnExhausted::Backfill, ..FilterRule::default()
        };
        let judge = FilterRule { max_attempts: 0, attempts: Attempts::PerSample, max_rounds: 0, ..rule.clone() };
        let passing: std::collections::BTreeSet<u64> = reference(&judge, class, 40_000).0.iter().map(|p| p.0).collect();
        let mut expected = Vec::new();
        let mut tally = ClassTally::default();
        let mut begin = 0;
        while expected.len() < 40 * 8 {
            let (kept, unfiltered, after) = program(|id| passing.contains(&id), begin, per_set, max_rounds);
            let kept = kept.into_iter().map(|id| (id, false));
            for (id, backfilled) in kept.chain((after..).take(unfiltered).map(|id| (id, true))) {
                for rejected in (tally.drawn..=id).filter(|id| !passing.contains(id)) {
                    *tally.rejected_as.entry(predicted(class, rejected)).or_default() += 1;
                }
                tally.drawn = id + 1;
                tally.accepted += u64::from(!backfilled);
                tally.backfilled += u64::from(backfilled);
                expected.push((id, tally.clone()));
            }
            // The program discards what passes beyond the set; here it is not drawn.
            begin = tally.drawn;
        }
        let mut source = filtered(most, rule.clone());
        let mut done = 0;
        for (max, cut) in pulls {
            if cut {
                let cursors = source.cursors();
                source = filtered(most, rule.clone());
                source.seek_all(&cursors).unwrap();
                prop_assert_eq!(source.cursors(), cursors);
            }
            let batch = source.pull(ClassId(class), n(max)).unwrap().unwrap();
            let part = &expected[done..done + max];
            prop_assert_eq!(batch.ids, part.iter().map(|p| p.0).collect::<Vec<_>>());
            done += max;
            prop_assert_eq!(&source.tally().classes[class as usize], &part[max - 1].1);
        }
    }

    #[test]
    fn samples_depend_on_the_source_alone(
        pulls in prop::collection::vec((0u32..3, 1usize..80), 1..10),
        most in prop::sample::select(vec![1usize, 7, 64, 500]),
        cuts in prop::collection::vec(any::<bool>(), 10),
        threshold in prop::sample::select(vec![0.0, 0.5, 0.8, 0.97]),
        max_attempts in prop::sample::select(vec![0u64, 1, 2, 5]),
        backfilled in any::<bool>(),
        any in any::<bool>(),
    ) {
        let on_exhausted = if backfilled { OnExhausted::Backfill } else { OnExhausted::Error };
        let mut rule = FilterRule { threshold, max_attempts, on_exhausted, ..FilterRule::default() };
        if any {
            rule = FilterRule { accept: Accept::Any, threshold: 0.0, ..rule };
        }
        let expected: Vec<_> = (0..3).map(|class| reference(&rule, class, 40_000)).collect();
        let (mut source, mut done) = (filtered(most, rule.clone()), [0usize; CLASSES]);
        let mut tally = Tally::new(CLASSES);
        for (&(class, max), &cut) in pulls.iter().zip(&cuts) {
            if cut {
                // As after an interruption.
                let cursors = source.cursors();
                source = filtered(most, rule.clone());
                source.seek_all(&cursors).unwrap();
                prop_assert_eq!(source.cursors(), cursors);
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
                    tally.classes[c] = part.last().unwrap().1.clone();
                }
                Err(Error::Exhausted(exhausted)) => {
                    prop_assert!(*ends && done[c] == all.len());
                    let named = format!("class {class} ({})", class_names()[c]);
                    prop_assert!(exhausted.to_string().starts_with(&named));
                    let [(named, wanted, counts)] = exhausted.classes().collect::<Vec<_>>()[..] else { panic!("one class") };
                    prop_assert_eq!((named, wanted), (ClassId(class), (done[c] + max) as u64));
                    prop_assert_eq!(counts.accepted, done[c] as u64);
                    prop_assert_eq!(counts.drawn, max_attempts * (counts.accepted + PATIENCE));
                    prop_assert_eq!(counts.rejected_as.values().sum::<u64>(), counts.drawn - counts.accepted);
                }
                Err(other) => panic!("{other}"),
            }
            prop_assert_eq!(source.tally(), tally.clone());
        }
    }

    #[test]
    fn nested_filters_resume(cut in 0usize..6, max in 1usize..50) {
        let outer_rule = FilterRule::with_threshold(0.8);
        let make = || {
            let inner = filtered(64, FilterRule::with_threshold(0.6));
            Filtered::new(inner, scorer_fn(ImageSpec::new(1, 1, 2), CLASSES, teacher), outer_rule.clone()).unwrap()
        };
        let (mut whole, mut apart) = (make(), make());
        let (mut ids, mut last) = (Vec::new(), Vec::new());
        for i in 0..6 {
            if i == cut {
                let cursors = apart.cursors();
                apart = make();
                apart.seek_all(&cursors).unwrap();
            }
            ids.extend(apart.pull(ClassId(1), n(max)).unwrap().unwrap().ids);
            last = apart.pull(ClassId(0), n(1)).unwrap().unwrap().ids;
        }
        prop_assert_eq!(whole.pull(ClassId(1), n(6 * max)).unwrap().unwrap().ids, ids);
        prop_assert_eq!(whole.pull(ClassId(0), n(6)).unwrap().unwrap().ids[5..].to_vec(), last);
        prop_assert_eq!(whole.tally(), apart.tally());
    }

    #[test]
    fn filtered_mixes_resume(
        pulls in prop::collection::vec((0u32..3, 1usize..80), 1..8), cut in 0usize..8,
        turn in 1u64..100, outside in any::<bool>(),
    ) {
        let turn = NonZeroU64::new(turn).unwrap();
        let strict = FilterRule::with_threshold(0.6);
        let make = || -> Box<dyn SampleSource> {
            let rules = [FilterRule::default(), strict.clone()].into_iter();
            let mix = |sources| Mixed::new(sources, turn).unwrap();
            if outside {
                // Each generator has its own rule...
                return Box::new(mix(rules.map(|rule| filtered(7, rule)).collect()));
            }
            // ...or one rule applies to all of them.
            let all: Vec<Box<dyn SampleSource>> = vec![Box::new(numbered(50)), Box::new(filtered(64, FilterRule::default()))];
            let all = all.into_iter().map(|s| Filtered::new(s, scorer_fn(ImageSpec::new(1, 1, 2), CLASSES, teacher), strict.clone()).unwrap());
            let mix = Mixed::new(all.collect(), turn).unwrap();
            Box::new(Filtered::new(mix, scorer_fn(ImageSpec::new(1, 1, 2), CLASSES, teacher), strict.clone()).unwrap())
        };
        let (mut whole, mut apart) = (make(), make());
        let mut parts = vec![(Vec::new(), Vec::new()); CLASSES];
        for (i, &(class, max)) in pulls.iter().enumerate() {
            if i == cut {
                let before = (apart.cursors(), apart.tally());
                apart = make();
                apart.seek_all(&before.0).unwrap();
                prop_assert_eq!((apart.cursors(), apart.tally()), before);
            }
            let batch = apart.pull(ClassId(class), n(max)).unwrap().unwrap();
            prop_assert_eq!(batch.len(), max);
            parts[class as usize].0.extend(batch.ids);
            parts[class as usize].1.extend(batch.images);
        }
        for (class, (ids, images)) in ClassId::all(CLASSES).zip(parts) {
            let Some(some) = NonZeroUsize::new(ids.len()) else { continue };
            let all = whole.pull(class, some).unwrap().unwrap();
            prop_assert!(all.ids.iter().collect::<std::collections::BTreeSet<_>>().len() == all.len(), "ids are names");
            prop_assert_eq!((all.ids, all.images), (ids, images));
        }
        prop_assert_eq!(whole.tally(), apart.tally());
        prop_assert_eq!(whole.cursors(), apart.cursors());
    }
}

#[test]
fn accept_any_adds_confidence_and_probabilities() {
    let rule = FilterRule { accept: Accept::Any, keep_probabilities: true, ..FilterRule::default() };
    let batch = filtered(64, rule).pull(ClassId(1), n(100)).unwrap().unwrap();
    assert_eq!(batch.ids, (0..100).collect::<Vec<_>>());
    let sure: Vec<f32> = (0..100).map(|id| f32::from(byte(1, id)) / 255.0).collect();
    assert_eq!(batch.probabilities.unwrap(), sure.iter().flat_map(|p| [0.0, *p, 1.0 - p]).collect::<Vec<_>>());
    assert_eq!(batch.confidence.unwrap(), sure);
}

#[test]
fn exhausted_class_is_an_error_or_backfilled() {
    // Nothing is recognised as class 1.
    let never = |pixels: &[u8]| Ok(pixels.chunks(2).flat_map(|_| [0.6, 0.1, 0.3]).collect());
    let source = |rule| Filtered::new(numbered(64), scorer_fn(ImageSpec::new(1, 1, 2), CLASSES, never), rule).unwrap();
    let rule = FilterRule { max_attempts: 10, ..FilterRule::default() };

    let mut strict = source(rule.clone());
    let error = strict.pull(ClassId(1), n(40)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "class 1 (dog) is exhausted: wanted 40 samples, accepted 0 of 160 drawn; the teacher classifies the rest as cat (100 %).\n\
         Use a lower threshold, a higher max_attempts, on_exhausted = \"backfill\", or a generator or teacher that knows \
         the class better"
    );
    assert_eq!(strict.pull(ClassId(1), n(40)).unwrap_err().to_string(), error.to_string(), "for good");
    assert_eq!(strict.pull(ClassId(0), n(40)).unwrap().unwrap().len(), 40, "the other classes continue");

    let mut lenient = source(FilterRule { on_exhausted: OnExhausted::Backfill, keep_probabilities: true, ..rule });
    let batch = lenient.pull(ClassId(1), n(40)).unwrap().unwrap();
    assert_eq!(batch.ids, (0..40).map(|i| 159 + 10 * i).collect::<Vec<_>>());
    assert_eq!(batch.confidence.unwrap(), [0.1; 40]);
    assert_eq!(batch.probabilities.unwrap()[..6], [0.6, 0.1, 0.3, 0.6, 0.1, 0.3]);
    let expected = ClassTally { rejected_as: [(ClassId(0), 550)].into(), ..ClassTally::new(550, 0, 40) };
    assert_eq!(lenient.tally().classes[1], expected);
}

/// When one class fails, the error names every class that would, and none is judged beyond its own attempts.
#[test]
fn one_error_names_every_exhausted_class_and_why() {
    let error = |rule: FilterRule, first: u32, wanted: u64, rows: [[f32; CLASSES]; CLASSES]| {
        let mut judged = 0;
        let teacher = |pixels: &[u8]| {
            judged += pixels.len() / 2;
            Ok(pixels.chunks(2).flat_map(|p| rows[usize::from(p[0])]).collect())
        };
        let mut source =
            Filtered::new(numbered(64), scorer_fn(ImageSpec::new(1, 1, 2), CLASSES, teacher), rule).unwrap();
        let Err(Error::Exhausted(exhausted)) = source.pull(ClassId(first), n(9)) else { panic!("no error") };
        let error = exhausted.with_others(&mut source, wanted).to_string();
        drop(source);
        (error, judged)
    };
    let rule = FilterRule { max_attempts: 10, ..FilterRule::default() };
    let (shifted, judged) = error(rule.clone(), 1, 40, [[0.1, 0.9, 0.0], [0.2, 0.0, 0.8], [0.7, 0.2, 0.1]]);
    assert_eq!(
        shifted,
        "class 0 (cat) is exhausted: wanted 40 samples, accepted 0 of 160 drawn; the teacher classifies the rest as dog (100 %).\n\
         class 1 (dog) is exhausted: wanted 40 samples, accepted 0 of 160 drawn; the teacher classifies the rest as eel (100 %).\n\
         class 2 (eel) is exhausted: wanted 40 samples, accepted 0 of 160 drawn; the teacher classifies the rest as cat (100 %).\n\
         Labels look shifted by one: class 0 (cat) is classified as class 1 (dog) in 100 %, class 1 (dog) is classified as class 2 \
         (eel) in 100 %, class 2 (eel) is classified as class 0 (cat) in 100 %. Compare the order of the classes in generator, \
         samples and teacher"
    );
    assert!(judged <= 3 * 192, "{judged}");

    // Class 0 is not exhausted, but its samples help to show that the teacher classifies everything as class 0.
    let (untrained, judged) = error(rule.clone(), 2, 1_000_000, [[0.9, 0.1, 0.0]; 3]);
    assert!(untrained.starts_with("class 1 (dog)") && untrained.contains("\nclass 2 (eel)"), "{untrained}");
    assert!(
        untrained.contains("the teacher classifies 100 % of the samples as cat: the generator looks untrained"),
        "{untrained}"
    );
    assert!(judged <= 64 + 2 * 192, "not all that is wanted of class 0: {judged}");

    let strict = FilterRule { threshold: 0.9, ..rule.clone() };
    let (strict, _) = error(strict, 0, 40, [[0.6, 0.4, 0.0], [0.1, 0.8, 0.1], [0.01, 0.0, 0.99]]);
    let expected = "class 0 (cat) is exhausted: wanted 40 samples, accepted 0 of 160 drawn; the teacher classifies the rest as cat below the \
                    threshold (100 %).\nclass 1 (dog)";
    assert!(strict.starts_with(expected) && !strict.contains("class 2"), "{strict}");
    assert!(strict.contains("The teacher recognises 100 % of the rejected samples"), "{strict}");

    let (other, _) = error(rule, 0, 40, [[0.1, 0.9, 0.0], [0.1, 0.8, 0.1], [0.01, 0.0, 0.99]]);
    assert!(other.ends_with("a generator or teacher that knows the class better"), "{other}");
}

#[test]
fn rounds_end_in_an_error_or_a_backfill() {
    // Class 1 is recognised in every fourth sample.
    let rare = |pixels: &[u8]| {
        Ok(pixels
            .chunks(2)
            .flat_map(|p| if p[1].is_multiple_of(4) { [0.1, 0.8, 0.1] } else { [0.8, 0.1, 0.1] })
            .collect())
    };
    let source = |rule| Filtered::new(numbered(64), scorer_fn(ImageSpec::new(1, 1, 2), CLASSES, rare), rule);
    let rule = FilterRule {
        attempts: Attempts::Rounds,
        max_rounds: 2,
        per_set: Some(20),
        on_exhausted: OnExhausted::Backfill,
        ..FilterRule::default()
    };
    let passing: Vec<u64> = (0..).filter(|&id| byte(1, id).is_multiple_of(4)).take(40).collect();
    // The first round has 20 candidates, the second twice as many as are missing then.
    let first = passing.iter().filter(|&&id| id < 20).count() as u64;
    let end = 20 + 2 * (20 - first);
    let kept: Vec<u64> = passing.iter().copied().filter(|&id| id < end).collect();
    assert!((1..20).contains(&first) && kept.len() < 20, "the example reaches its bound");
    let mut lenient = source(rule.clone()).unwrap();
    let batch = lenient.pull(ClassId(1), n(20)).unwrap().unwrap();
    let unfiltered = 20 - kept.len() as u64;
    assert_eq!(batch.ids, kept.iter().copied().chain(end..end + unfiltered).collect::<Vec<_>>());
    let counts = lenient.tally().classes[1].clone();
    assert_eq!((counts.drawn, counts.accepted, counts.backfilled), (end + unfiltered, kept.len() as u64, unfiltered));
    let passed = passing.iter().filter(|&&id| id < end + unfiltered).count() as u64;
    assert_eq!(
        counts.rejected_as,
        [(ClassId(0), end + unfiltered - passed)].into(),
        "those that pass are not rejected"
    );

    let mut strict = source(FilterRule { on_exhausted: OnExhausted::Error, ..rule.clone() }).unwrap();
    assert_eq!(strict.pull(ClassId(1), n(20)).unwrap().unwrap().ids, kept);
    let Err(Error::Exhausted(exhausted)) = strict.pull(ClassId(1), n(1)) else { panic!("no error") };
    let (_, _, counts) = exhausted.classes().next().unwrap();
    assert_eq!((counts.drawn, counts.accepted), (end, kept.len() as u64));
    assert_eq!(counts.rejected_as, [(ClassId(0), end - kept.len() as u64)].into(), "nothing after the last round");

    let refused = |rule| source(rule).err().unwrap().to_string();
    assert!(refused(FilterRule { per_set: None, ..rule.clone() }).starts_with("per_set = unset"));
    assert!(refused(FilterRule { per_set: Some(0), ..rule.clone() }).starts_with("per_set = 0"));
    assert!(refused(FilterRule { attempts: Attempts::PerSample, ..rule }).starts_with("max_rounds = 2"));
}

#[test]
fn endless_search_can_be_stopped() {
    let stop = Arc::new(AtomicBool::new(false));
    // Nothing passes until a stop is requested after some blocks.
    let impatient = stop.clone();
    let mut calls = 0;
    let slow = move |pixels: &[u8]| {
        calls += 1;
        if calls == 5 {
            impatient.store(true, Ordering::Relaxed);
        }
        let row = if calls > 5 { [0.1, 0.9, 0.0] } else { [0.9, 0.1, 0.0] };
        Ok(pixels.chunks(2).flat_map(|_| row).collect())
    };
    let rule = FilterRule { max_attempts: 0, ..FilterRule::default() };
    let mut source = Filtered::new(numbered(64), scorer_fn(ImageSpec::new(1, 1, 2), CLASSES, slow), rule)
        .unwrap()
        .until(stop.clone());
    assert!(matches!(source.pull(ClassId(1), n(3)), Err(Error::Interrupted)));
    stop.store(false, Ordering::Relaxed);
    let first = 5 * SAMPLE_BATCH.get() as u64;
    assert_eq!(source.pull(ClassId(1), n(3)).unwrap().unwrap().ids, [first, first + 1, first + 2], "nothing is lost");
}

#[test]
fn finite_source_ends() {
    let mut set = MemoryDataset::new(ImageSpec::new(1, 1, 2), class_names(), Split::Synthetic);
    for (class, sure) in [(0, 200), (1, 250), (0, 10), (0, 255), (1, 3)] {
        set.push(&[class, sure], ClassId(class.into()));
    }
    let mut source = RowsSource::new(set);
    assert!(source.pull(ClassId(3), n(1)).is_err());
    assert!(source.seek(ClassId(0), &at(4)).is_err());
    assert!(source.seek_all(&[at(0), at(0)]).is_err());
    source.seek(ClassId(0), &at(1)).unwrap();
    assert_eq!(source.pull(ClassId(0), n(9)).unwrap().unwrap().ids, [2, 3]);
    source.seek(ClassId(0), &at(0)).unwrap();

    let mut kept =
        Filtered::new(source, scorer_fn(ImageSpec::new(1, 1, 2), CLASSES, teacher), FilterRule::default()).unwrap();
    assert_eq!(kept.pull(ClassId(0), n(1)).unwrap().unwrap().ids, [0]);
    assert_eq!(kept.tally().classes[0], ClassTally::new(1, 1, 0));
    assert_eq!(kept.pull(ClassId(0), n(9)).unwrap().unwrap().ids, [3]);
    let expected = ClassTally { rejected_as: [(ClassId(1), 1)].into(), ..ClassTally::new(3, 2, 0) };
    assert_eq!(kept.tally().classes[0], expected);
    assert!(kept.pull(ClassId(0), n(9)).unwrap().is_none());
    assert!(kept.pull(ClassId(2), n(9)).unwrap().is_none());
    assert!(kept.pull(ClassId(3), n(9)).is_err());
}

#[test]
fn failing_teacher_loses_no_sample() {
    let mut calls = 0;
    let flaky = move |pixels: &[u8]| {
        calls += 1;
        if calls % 2 == 1 { Err(Error::other("judging")("the line is busy")) } else { teacher(pixels) }
    };
    let mut source =
        Filtered::new(numbered(64), scorer_fn(ImageSpec::new(1, 1, 2), CLASSES, flaky), FilterRule::default()).unwrap();
    let mut ids = Vec::new();
    while ids.len() < 100 {
        match source.pull(ClassId(0), n(20)) {
            Ok(batch) => ids.extend(batch.unwrap().ids),
            Err(e) => assert_eq!(e.to_string(), "judging"),
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
    assert!(new(image, CLASSES, FilterRule::with_threshold(1.0)).is_usage());

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
    assert_eq!(pull(|_| Ok(vec![])), "judging samples: expected 192 probabilities for 64 images, found 0");
    let mut source = filtered(64, FilterRule::default());
    assert!(source.seek(ClassId(0), &at(0)).is_err(), "the cursor of another source");
    assert!(source.seek_all(&[]).is_err());
}
