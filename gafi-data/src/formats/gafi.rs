//! GaFi's own datasets as a source, to resize, divide or shrink one.

use gafi_core::{Artifact, Dataset, Result, Rows};

use crate::source::{Item, Location, Pixels, RawImage, Sink, Source};

/// A dataset artifact.
pub(crate) struct GafiDataset {
    artifact: Artifact,
    dataset: Dataset,
    labels: Vec<u32>,
}

impl GafiDataset {
    pub(crate) fn open(artifact: &Artifact) -> Result<Self> {
        let dataset = Dataset::open(artifact)?;
        let labels = dataset.labels().iter().map(|l| l.0).collect();
        Ok(Self { artifact: artifact.clone(), dataset, labels })
    }
}

impl Source for GafiDataset {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn classes(&self) -> Option<&[String]> {
        Some(&self.dataset.info().classes)
    }

    fn location(&self, row: usize) -> Location {
        Location::new(self.artifact.path(), format!("row {row}"))
    }

    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        let spec = self.dataset.info().image;
        for &row in rows {
            let mut data = vec![0; spec.bytes()];
            self.dataset.read(&[row], &mut data)?;
            sink(Item { row, image: RawImage::Pixels(Pixels { spec, data }) })?;
        }
        Ok(())
    }
}
