//! `RowsSource`: a finite source of samples made of a dataset, on disk or in memory.

use std::num::NonZeroUsize;

use gafi_core::{Batch, ClassId, Error, ImageSpec, Result, Rows, SampleSource, Tally};

/// Hands over the rows of a dataset, class by class, in their order; ids are the rows' numbers. Only the numbers are held
/// in memory. Its position is how many rows of each class it has handed over; every row passes.
#[derive(Debug)]
pub struct RowsSource<R> {
    rows: R,
    // Rows of each class, in order.
    members: Vec<Vec<usize>>,
    next: Vec<usize>,
}

impl<R: Rows> RowsSource<R> {
    /// A source of all of `rows`.
    pub fn new(rows: R) -> Self {
        let mut members = vec![Vec::new(); rows.info().classes.len()];
        for row in 0..rows.len() {
            members[rows.label(row).index()].push(row);
        }
        Self { rows, next: vec![0; members.len()], members }
    }
}

impl<R: Rows> SampleSource for RowsSource<R> {
    fn image(&self) -> &ImageSpec {
        &self.rows.info().image
    }

    fn classes(&self) -> &[String] {
        &self.rows.info().classes
    }

    fn pull(&mut self, class: ClassId, max: NonZeroUsize) -> Result<Option<Batch>> {
        let Some(members) = self.members.get(class.index()) else {
            let why = format!("expected a class below {}", self.members.len());
            return Err(Error::other(format!("reading rows of {class}"))(why));
        };
        let next = &mut self.next[class.index()];
        let rows = &members[*next..members.len().min(next.saturating_add(max.get()))];
        if rows.is_empty() {
            return Ok(None);
        }
        let mut images = vec![0; rows.len() * self.rows.info().image.bytes()];
        self.rows.read(rows, &mut images)?;
        *next += rows.len();
        let ids = rows.iter().map(|&row| row as u64).collect();
        Ok(Some(Batch { labels: vec![class; rows.len()], images, ids, ..Batch::default() }))
    }

    fn tally(&self) -> Tally {
        let mut tally = Tally::new(self.next.len());
        for (tally, &next) in tally.classes.iter_mut().zip(&self.next) {
            (tally.drawn, tally.accepted) = (next as u64, next as u64);
        }
        tally
    }

    fn position(&self) -> Vec<u64> {
        self.next.iter().map(|&next| next as u64).collect()
    }

    fn seek(&mut self, position: &[u64], _: &Tally) -> Result<()> {
        let counts: Vec<u64> = self.members.iter().map(|m| m.len() as u64).collect();
        if position.len() != counts.len() || position.iter().zip(&counts).any(|(at, count)| at > count) {
            let why = format!("expected at most {counts:?} rows of each class, found {position:?}");
            return Err(Error::other("placing a source of rows")(why));
        }
        self.next = position.iter().map(|&at| at as usize).collect();
        Ok(())
    }
}
