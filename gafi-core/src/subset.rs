//! `Subset`: some rows of another set.

use std::sync::Arc;

use crate::dataset_info::DatasetInfo;
use crate::error::{Error, Result};
use crate::rows::Rows;
use crate::spec::ClassId;
use crate::stream::{Stream, permutation};

/// Some rows of another set, in any order; a row may occur several times.
pub struct Subset {
    rows: Arc<dyn Rows>,
    chosen: Vec<usize>,
    info: DatasetInfo,
}

impl Subset {
    /// The rows `chosen`.
    ///
    /// # Panics
    /// If a row is out of range.
    pub fn new(rows: Arc<dyn Rows>, chosen: Vec<usize>) -> Self {
        let mut info = rows.info().clone();
        info.shards.clear();
        info.counts.fill(0);
        for &row in &chosen {
            info.counts[rows.label(row).index()] += 1;
        }
        Self { rows, chosen, info }
    }

    /// `per_class` rows of each class, drawn without replacement from `stream`, in the order of the set.
    ///
    /// # Errors
    /// [`Error::Config`] when a class has fewer rows.
    pub fn per_class(rows: Arc<dyn Rows>, per_class: usize, stream: &Stream) -> Result<Self> {
        let mut chosen = Vec::new();
        for (class, members) in rows.by_class().iter().enumerate() {
            if members.len() < per_class {
                let expected = format!("at most the {} rows of class {class}", members.len());
                return Err(Error::config("per_class", per_class, expected));
            }
            let order = permutation(members.len(), &stream.at(class as u64));
            chosen.extend(order[..per_class].iter().map(|&i| members[i]));
        }
        chosen.sort_unstable();
        Ok(Self::new(rows, chosen))
    }
}

impl Rows for Subset {
    fn info(&self) -> &DatasetInfo {
        &self.info
    }
    fn len(&self) -> usize {
        self.chosen.len()
    }
    fn label(&self, row: usize) -> ClassId {
        self.rows.label(self.chosen[row])
    }
    fn read(&self, rows: &[usize], images: &mut [u8]) -> Result<()> {
        let rows: Vec<usize> = rows.iter().map(|&r| self.chosen[r]).collect();
        self.rows.read(&rows, images)
    }
    fn probabilities(&self, rows: &[usize]) -> Result<Option<Vec<f32>>> {
        self.rows.probabilities(&rows.iter().map(|&r| self.chosen[r]).collect::<Vec<_>>())
    }
}
