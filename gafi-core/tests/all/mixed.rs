//! `Mixed`, with sources whose samples show where they come from.

use std::num::{NonZeroU64, NonZeroUsize};

use gafi_core::*;
use proptest::prelude::*;

const CLASSES: usize = 2;

fn n(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

fn turn(n: u64) -> NonZeroU64 {
    NonZeroU64::new(n).unwrap()
}

/// A source whose samples have three bytes: source, class and id. It has `most` samples of every class and hands over at most 7
/// at a time. Its cursor holds the next id once or, when `wide`, twice.
#[derive(Debug, Clone)]
struct Signed {
    name: u8,
    image: ImageSpec,
    classes: Vec<String>,
    next: Vec<u64>,
    most: u64,
    wide: bool,
    columns: [bool; 2],
    // Fails this many pulls first.
    failing: usize,
}

fn signed(name: u8) -> Signed {
    Signed {
        name,
        image: ImageSpec::new(1, 1, 3),
        classes: ["cat", "dog"].map(String::from).to_vec(),
        next: vec![0; CLASSES],
        most: 200,
        wide: name == 1,
        columns: [true; 2],
        failing: 0,
    }
}

impl SampleSource for Signed {
    fn image(&self) -> &ImageSpec {
        &self.image
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn pull(&mut self, class: ClassId, max: NonZeroUsize) -> Result<Option<Batch>> {
        if self.failing > 0 {
            self.failing -= 1;
            return Err(Error::other("generating")("out of memory"));
        }
        let next = &mut self.next[class.index()];
        let ids: Vec<u64> = (*next..self.most.min(*next + 7.min(max.get() as u64))).collect();
        if ids.is_empty() {
            return Ok(None);
        }
        *next += ids.len() as u64;
        let sure = |id: &u64| *id as f32 / 256.0;
        Ok(Some(Batch {
            labels: vec![class; ids.len()],
            images: ids.iter().flat_map(|&id| [self.name, class.0 as u8, id as u8]).collect(),
            confidence: self.columns[0].then(|| ids.iter().map(sure).collect()),
            probabilities: self.columns[1].then(|| ids.iter().flat_map(|id| [sure(id), 1.0 - sure(id)]).collect()),
            ids,
        }))
    }
    fn tally(&self) -> Tally {
        // As if every second sample had been rejected.
        Tally { classes: self.next.iter().map(|&n| ClassTally::new(2 * n, n, 0)).collect() }
    }
    fn cursor(&self, class: ClassId) -> Cursor {
        let next = self.next[class.index()];
        if self.wide { Cursor::new([next, next], Vec::new()) } else { Cursor::new([next], Vec::new()) }
    }
    fn seek(&mut self, class: ClassId, cursor: &Cursor) -> Result<()> {
        self.next[class.index()] =
            if self.wide { cursor.parts::<2>("wide", 0)?.0[0] } else { cursor.parts::<1>("", 0)?.0[0] };
        Ok(())
    }
}

fn mixed(sources: u8, every: u64) -> Mixed<Signed> {
    Mixed::new((0..sources).map(signed).collect(), turn(every)).unwrap()
}

/// Source and id, in its source, of samples `from..to` of a class.
fn order(sources: u64, every: u64, from: u64, to: u64) -> Vec<(u64, u64)> {
    (from..to).map(|i| ((i / every) % sources, i / (every * sources) * every + i % every)).collect()
}

proptest! {
    #[test]
    fn order_depends_on_the_index_alone(
        sources in 1u8..4, every in 1u64..20,
        pulls in prop::collection::vec((0u32..2, 1usize..40, any::<bool>()), 1..12),
    ) {
        let (mut mix, mut done) = (mixed(sources, every), [0u64; CLASSES]);
        for (class, max, cut) in pulls {
            if cut {
                let before = (mix.cursors(), mix.tally());
                mix = mixed(sources, every);
                mix.seek_all(&before.0).unwrap();
                prop_assert_eq!((mix.cursors(), mix.tally()), before);
            }
            let c = class as usize;
            let Some(batch) = mix.pull(ClassId(class), n(max)).unwrap() else {
                // One of the sources has no more.
                prop_assert_eq!(order(sources.into(), every, done[c], done[c] + 1)[0].1, 200);
                continue;
            };
            let expected = order(sources.into(), every, done[c], done[c] + batch.len() as u64);
            let pixels: Vec<u8> = expected.iter().flat_map(|&(s, id)| [s as u8, class as u8, id as u8]).collect();
            let ids: Vec<u64> = expected.iter().map(|&(s, id)| id * u64::from(sources) + s).collect();
            let sure: Vec<f32> = expected.iter().map(|&(_, id)| id as f32 / 256.0).collect();
            prop_assert_eq!((batch.images, batch.ids, &batch.labels), (pixels, ids, &vec![ClassId(class); expected.len()]));
            let all: Vec<f32> = sure.iter().flat_map(|p| [*p, 1.0 - p]).collect();
            prop_assert_eq!((batch.confidence.unwrap(), batch.probabilities.unwrap()), (sure, all));
            done[c] += expected.len() as u64;
            prop_assert!(expected.len() == max || mix.pull(ClassId(class), n(1)).unwrap().is_none());
        }
        let tally = |n| ClassTally::new(2 * n, n, 0);
        prop_assert_eq!(mix.tally().classes, done.map(tally).to_vec());
    }
}

#[test]
fn class_ends_when_the_current_source_ends() {
    let short = Signed { most: 3, ..signed(1) };
    let mut mix = Mixed::new(vec![signed(0), short], turn(2)).unwrap();
    let batch = mix.pull(ClassId(0), n(99)).unwrap().unwrap();
    assert_eq!(batch.ids, [0, 2, 1, 3, 4, 6, 5]);
    assert!(mix.pull(ClassId(0), n(99)).unwrap().is_none(), "for good, whatever source 0 has");
    assert_eq!(mix.pull(ClassId(1), n(1)).unwrap().unwrap().ids, [0], "the other class continues");
    assert!(mix.pull(ClassId(2), n(1)).is_err());
}

#[test]
fn failure_loses_no_sample() {
    let failing = Signed { failing: 2, ..signed(1) };
    let mut mix = Mixed::new(vec![signed(0), failing], turn(3)).unwrap();
    assert_eq!(mix.pull(ClassId(0), n(9)).unwrap().unwrap().ids, [0, 2, 4], "the samples before it");
    assert_eq!(mix.pull(ClassId(0), n(9)).unwrap_err().to_string(), "generating");
    assert_eq!(mix.pull(ClassId(0), n(6)).unwrap().unwrap().ids, [1, 3, 5, 6, 8, 10]);
}

#[test]
fn misfits_are_errors() {
    let new = |second: Signed| Mixed::new(vec![signed(0), second], turn(1));
    let error = new(Signed { image: ImageSpec::new(3, 1, 3), ..signed(1) }).unwrap_err();
    let expected = "stage mix: source 1: expected 1x1x3 images of classes cat, dog, as source 0 has, found 3x1x3 images of \
                    classes cat, dog";
    assert_eq!(error.to_string(), expected);
    let turned = Signed { classes: vec!["dog".into(), "cat".into()], ..signed(1) };
    assert!(new(turned).unwrap_err().to_string().ends_with("found 1x1x3 images of classes dog, cat"));
    assert!(Mixed::<Signed>::new(vec![], turn(1)).unwrap_err().is_usage());
    assert!(mixed(2, 1).seek(ClassId(0), &mixed(3, 1).cursor(ClassId(0))).is_err(), "the cursor of another mix");
    assert!(mixed(2, 1).seek_all(&[]).is_err());

    let why = |e: Error| std::error::Error::source(&e).unwrap().to_string();
    for columns in [[false, true], [true, false]] {
        let mut mix = new(Signed { columns, ..signed(1) }).unwrap();
        assert_eq!(mix.pull(ClassId(0), n(2)).unwrap().unwrap().len(), 1);
        for _ in 0..2 {
            assert!(why(mix.pull(ClassId(0), n(2)).unwrap_err()).contains("from every source or from none"));
        }
    }
    let bare = || Signed { columns: [false; 2], ..signed(0) };
    let mut mix = Mixed::new(vec![bare(), bare()], turn(1)).unwrap();
    let batch = mix.pull(ClassId(0), n(4)).unwrap().unwrap();
    assert!(batch.confidence.is_none() && batch.probabilities.is_none());

    let late = Signed { next: vec![u64::MAX / 2 + 1; 2], most: u64::MAX, ..signed(0) };
    let mut mix = Mixed::new(vec![late, signed(1)], turn(1)).unwrap();
    assert_eq!(why(mix.pull(ClassId(0), n(1)).unwrap_err()), "an id exceeds 64 bits");
}
