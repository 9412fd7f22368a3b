//! `RowsSource`: the rows of a dataset, on disk or in memory, as a finite source of samples.

use std::num::NonZeroUsize;

use gafi_core::{Batch, ClassId, ClassTally, Cursor, Error, ImageSpec, Result, Rows, SampleSource, Tally};

/// The rows of a dataset, class by class, in their order. The id of a sample is its row. Only row numbers are held in memory;
/// every row passes.
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
        let members = rows.by_class();
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
        class.check_below(self.members.len(), "reading rows")?;
        let members = &self.members[class.index()];
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
        let tally = |&next: &usize| ClassTally::new(next as u64, next as u64, 0);
        Tally { classes: self.next.iter().map(tally).collect() }
    }

    fn cursor(&self, class: ClassId) -> Cursor {
        Cursor::new([self.next[class.index()] as u64], Vec::new())
    }

    fn seek(&mut self, class: ClassId, cursor: &Cursor) -> Result<()> {
        let ([next], _) = cursor.parts("a source of rows", 0)?;
        let count = self.members[class.index()].len();
        let next = usize::try_from(next).ok().filter(|&next| next <= count).ok_or_else(|| {
            let why = format!("expected a position of at most {count}, the number of rows of {class}, found {next}");
            Error::other("resuming a source of rows")(why)
        })?;
        self.next[class.index()] = next;
        Ok(())
    }
}
