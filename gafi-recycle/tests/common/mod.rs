//! A source that writes class and id of each sample into its pixels.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gafi_core::{Batch, ClassId, ClassTally, Cursor, ImageSpec, Result, Rows, SampleSource, Tally};

pub(crate) const IMAGE: ImageSpec = ImageSpec::new(1, 3, 3);
pub(crate) const CLASSES: usize = 2;

pub(crate) fn names() -> Vec<String> {
    vec!["cat".into(), "dog".into()]
}

/// Samples that hold their id and class; every second draw is rejected. `end` samples of each class, then no more.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) classes: Vec<String>,
    pub(crate) next: Vec<u64>,
    pub(crate) end: u64,
    pub(crate) drawn: Arc<AtomicU64>,
}

impl Named {
    pub(crate) fn new(end: u64) -> Self {
        Self { classes: names(), next: vec![0; CLASSES], end, drawn: Arc::default() }
    }
}

pub(crate) fn pixels(id: u64, class: ClassId) -> Vec<u8> {
    id.to_le_bytes().into_iter().chain([class.0 as u8]).collect()
}

pub(crate) fn id(image: &[u8]) -> u64 {
    u64::from_le_bytes(image[..8].try_into().unwrap())
}

impl SampleSource for Named {
    fn image(&self) -> &ImageSpec {
        &IMAGE
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn pull(&mut self, class: ClassId, max: NonZeroUsize) -> Result<Option<Batch>> {
        let next = &mut self.next[class.index()];
        // At most seven at a time: a source may hand over fewer samples than requested.
        let ids: Vec<u64> = (*next..self.end.min(*next + max.get().min(7) as u64)).collect();
        *next += ids.len() as u64;
        self.drawn.fetch_add(ids.len() as u64, Ordering::Relaxed);
        let images = ids.iter().flat_map(|&id| pixels(id, class)).collect();
        let batch = Batch { labels: vec![class; ids.len()], images, ids, ..Batch::default() };
        Ok((!batch.is_empty()).then_some(batch))
    }
    fn tally(&self) -> Tally {
        Tally { classes: self.next.iter().map(|&n| ClassTally::new(2 * n, n, 0)).collect() }
    }
    fn cursor(&self, class: ClassId) -> Cursor {
        Cursor::new([self.next[class.index()]], Vec::new())
    }
    fn seek(&mut self, class: ClassId, cursor: &Cursor) -> Result<()> {
        [self.next[class.index()]] = cursor.parts("named samples", 0)?.0;
        Ok(())
    }
}

/// The ids in the set, row by row. Checks the labels.
pub(crate) fn ids(rows: &dyn Rows) -> Vec<u64> {
    let mut images = vec![0; rows.len() * IMAGE.bytes()];
    rows.read(&(0..rows.len()).collect::<Vec<_>>(), &mut images).unwrap();
    let per_class = rows.len() / CLASSES;
    images
        .chunks(IMAGE.bytes())
        .enumerate()
        .map(|(row, image)| {
            assert_eq!((usize::from(image[8]), rows.label(row).index()), (row / per_class, row / per_class));
            id(image)
        })
        .collect()
}
