//! [`ExportFormat`] and [`ExportOptions`].

/// How exported images are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExportFormat {
    /// `CLASS/ROW.png`, and `classes.json` with the folder of each label.
    ImageFolder,
    /// The Hugging Face hub's image datasets: `data/SPLIT-00000.parquet` with columns `image` and `label`, and with `confidence`
    /// and `probabilities` if the dataset has them.
    Parquet,
    /// `SPLIT-000000.tar` with `ROW.png`, `ROW.cls`, and `ROW.json` if the dataset has confidences; and `classes.json`.
    WebDataset,
    /// `dataset.npz` with arrays `images` (uint8; (n, h, w) for grey images, (n, h, w, 3) for colour), `labels` (int64) and
    /// `classes` (strings), and with `confidence` and `probabilities` (float32) if the dataset has them.
    Npz,
    /// CIFAR-10's binary files, for 3x32x32 images and up to 256 classes; and `batches.meta.txt`.
    CifarBin,
}

impl ExportFormat {
    /// All formats.
    pub const ALL: [Self; 5] = [Self::ImageFolder, Self::Parquet, Self::WebDataset, Self::Npz, Self::CifarBin];

    /// The name, such as `image-folder`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ImageFolder => "image-folder",
            Self::Parquet => "parquet",
            Self::WebDataset => "webdataset",
            Self::Npz => "npz",
            Self::CifarBin => "cifar-bin",
        }
    }
}

impl std::fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for ExportFormat {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|f| f.name() == s);
        found.ok_or_else(|| format!("expected one of {}, found {s:?}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// What the dataset card adds to the artifact, and the size of files. Start from [`ExportOptions::default`]:
///
/// ```
/// let mut options = gafi_data::ExportOptions::default();
/// options.license = Some("cc0-1.0".into());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportOptions {
    /// Title of the card. `None` for a description of the images.
    pub name: Option<String>,
    /// The hub's identifier of a licence, such as `cc0-1.0`. `None` for `other`, unspecified.
    pub license: Option<String>,
    /// Parquet and webdataset: start a new file after this many bytes. Default: 256 MiB.
    pub file_bytes: u64,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { name: None, license: None, file_bytes: 256 << 20 }
    }
}
