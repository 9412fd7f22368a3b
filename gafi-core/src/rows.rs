//! `Rows`: random access to labelled images; `MemoryDataset`: a set in memory.

use crate::dataset_info::DatasetInfo;
use crate::error::Result;
use crate::spec::{ClassId, ImageSpec, Split};

/// Random access to labelled images, for training and evaluation.
pub trait Rows: Send + Sync {
    /// Shape, classes, split, counts.
    fn info(&self) -> &DatasetInfo;

    /// Number of rows.
    fn len(&self) -> usize;

    /// Whether it is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The class of a row below [`Rows::len`].
    fn label(&self, row: usize) -> ClassId;

    /// The rows of each class, ascending.
    ///
    /// # Panics
    /// If a label is not below the number of classes.
    fn by_class(&self) -> Vec<Vec<usize>> {
        let mut members = vec![Vec::new(); self.info().classes.len()];
        for row in 0..self.len() {
            members[self.label(row).index()].push(row);
        }
        members
    }

    /// Copies the pixels of `rows` into `images`, (rows, c, h, w).
    ///
    /// # Errors
    /// When a file cannot be read.
    ///
    /// # Panics
    /// If a row is out of range, or `images` has the wrong size.
    fn read(&self, rows: &[usize], images: &mut [u8]) -> Result<()>;

    /// Soft labels: a teacher's probability of every class for `rows`, (rows, classes). `None` for a set without them.
    ///
    /// # Errors
    /// When a file cannot be read, or has the wrong content.
    ///
    /// # Panics
    /// If a row is out of range.
    fn probabilities(&self, _rows: &[usize]) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }
}

impl<R: Rows + ?Sized> Rows for &R {
    fn info(&self) -> &DatasetInfo {
        (**self).info()
    }
    fn len(&self) -> usize {
        (**self).len()
    }
    fn label(&self, row: usize) -> ClassId {
        (**self).label(row)
    }
    fn read(&self, rows: &[usize], images: &mut [u8]) -> Result<()> {
        (**self).read(rows, images)
    }
    fn probabilities(&self, rows: &[usize]) -> Result<Option<Vec<f32>>> {
        (**self).probabilities(rows)
    }
}

/// A dataset in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryDataset {
    info: DatasetInfo,
    images: Vec<u8>,
    labels: Vec<ClassId>,
    // (n, classes) once any row has soft labels; zero for rows without.
    probabilities: Option<Vec<f32>>,
}

impl MemoryDataset {
    /// An empty set.
    pub fn new(image: ImageSpec, classes: Vec<String>, split: Split) -> Self {
        Self {
            info: DatasetInfo::new(image, classes, split),
            images: Vec::new(),
            labels: Vec::new(),
            probabilities: None,
        }
    }

    /// Appends a row.
    ///
    /// # Panics
    /// If image or label does not fit the set.
    pub fn push(&mut self, image: &[u8], label: ClassId) {
        assert_eq!(image.len(), self.info.image.bytes(), "image does not fit the set");
        self.info.counts[label.index()] += 1;
        self.images.extend_from_slice(image);
        self.labels.push(label);
        if let Some(all) = &mut self.probabilities {
            all.resize(self.labels.len() * self.info.classes.len(), 0.0);
        }
    }

    /// Replaces the image of a row.
    ///
    /// # Panics
    /// If the row is out of range or the image does not fit the set.
    pub fn replace(&mut self, row: usize, image: &[u8]) {
        let bytes = self.info.image.bytes();
        self.images[row * bytes..(row + 1) * bytes].copy_from_slice(image);
    }

    /// Sets the soft labels of a row, one probability per class.
    ///
    /// # Panics
    /// If the row is out of range or there are more or fewer probabilities than classes.
    pub fn set_probabilities(&mut self, row: usize, probabilities: &[f32]) {
        let rows = self.labels.len();
        let classes = self.info.classes.len();
        let all = self.probabilities.get_or_insert_with(|| vec![0.0; rows * classes]);
        all[row * classes..(row + 1) * classes].copy_from_slice(probabilities);
    }

    /// The soft labels of all rows, (n, classes); `None` without any.
    pub fn all_probabilities(&self) -> Option<&[f32]> {
        self.probabilities.as_deref()
    }

    /// All pixels, (n, c, h, w).
    pub fn images(&self) -> &[u8] {
        &self.images
    }

    /// The class of each row.
    pub fn labels(&self) -> &[ClassId] {
        &self.labels
    }
}

impl Rows for MemoryDataset {
    fn info(&self) -> &DatasetInfo {
        &self.info
    }
    fn len(&self) -> usize {
        self.labels.len()
    }
    fn label(&self, row: usize) -> ClassId {
        self.labels[row]
    }
    fn read(&self, rows: &[usize], images: &mut [u8]) -> Result<()> {
        let bytes = self.info.image.bytes();
        assert_eq!(images.len(), rows.len() * bytes, "buffer does not fit the rows");
        for (&row, out) in rows.iter().zip(images.chunks_exact_mut(bytes)) {
            out.copy_from_slice(&self.images[row * bytes..(row + 1) * bytes]);
        }
        Ok(())
    }
    fn probabilities(&self, rows: &[usize]) -> Result<Option<Vec<f32>>> {
        let classes = self.info.classes.len();
        let of = |all: &Vec<f32>| rows.iter().flat_map(|&r| all[r * classes..(r + 1) * classes].to_vec()).collect();
        Ok(self.probabilities.as_ref().map(of))
    }
}
