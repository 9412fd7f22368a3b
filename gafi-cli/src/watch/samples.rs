//! What `watch` shows of a run's samples: the newest grid that a training of a GAN, or the pipeline, has written, as thumbnails of
//! half blocks. A cell of the terminal holds two pixels: ▀ in the colour of the upper one, on that of the lower one.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use gafi_core::{ImageSpec, MANIFEST_FILE};
use gafi_gan::grid::GAP as GRID_GAP;
use image::{RgbImage, imageops};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Color;
use serde::Deserialize;

use super::read;
use crate::run_folder::StageFolder;

/// Pixels a side of a thumbnail: below the first nothing is recognised, above the second nothing is gained.
const SIDE: (u16, u16) = (8, 32);

/// Of what shape the images of a run are, and of what classes: its datasets and its generators say so alike.
#[derive(Debug, Deserialize)]
struct Content {
    image: ImageSpec,
    classes: Vec<String>,
}

/// A grid of samples, a row for each class.
#[derive(Debug)]
pub(crate) struct Samples {
    /// The grid's file, and when it was written.
    path: PathBuf,
    written: SystemTime,
    /// The file, as `watch` calls it.
    pub(crate) name: String,
    classes: Vec<String>,
    /// The samples of each class.
    rows: Vec<Vec<RgbImage>>,
}

impl Samples {
    /// The newest grid of `run`; `known` if that is it. None where there is none, or none that can be read yet.
    pub(crate) fn newest(run: &Path, stages: &[StageFolder], known: Option<Self>) -> Option<Self> {
        let of_stages = stages.iter().filter_map(|stage| Some((grid_of(&stage.path)?, format!("{}, ", stage.name))));
        let of_run = run.join("samples.png");
        let found = of_stages.chain([(of_run, String::new())]).filter_map(|(path, prefix)| {
            let written = std::fs::metadata(&path).and_then(|file| file.modified()).ok()?;
            Some((written, path, prefix))
        });
        let (written, path, prefix) = found.max()?;
        if let Some(known) = known.filter(|known| (&known.path, known.written) == (&path, written)) {
            return Some(known);
        }
        let content = |stage: &StageFolder| -> Option<Content> {
            serde_json::from_value(read(&stage.path.join(MANIFEST_FILE))["content"].take()).ok()
        };
        // Classifiers among them: what a run holds is all of one shape.
        let Content { image, classes } = stages.iter().filter(|stage| stage.done).find_map(content)?;
        let rows = cut(&image::open(&path).ok()?.to_rgb8(), &image, classes.len())?;
        let name = format!("{prefix}{}", path.file_name()?.to_string_lossy());
        Some(Self { path, written, name, classes, rows })
    }

    /// How they are laid out in so many columns and lines; none if there is no room.
    pub(crate) fn layout(&self, columns: u16, lines: u16) -> Option<Grid> {
        let classes = u16::try_from(self.rows.len()).unwrap_or(u16::MAX).max(1);
        let wide = ((columns + 1) / classes).saturating_sub(1);
        let high = lines.saturating_sub(1).saturating_mul(2);
        // Two pixels a line, so an even number; classes that do not fit at the least size are left out.
        let side = wide.clamp(SIDE.0, SIDE.1).min(high) / 2 * 2;
        let samples = self.rows.iter().map(Vec::len).min().unwrap_or(0).min(usize::from(high / side.max(1)));
        let shown = ((columns + 1) / (side + 1)).min(classes);
        (side >= SIDE.0 && shown > 0 && samples > 0).then_some(Grid { side, shown, samples: samples as u16 })
    }

    /// Draws as many as `grid` says: a column for each class, its name above.
    pub(crate) fn draw(&self, buffer: &mut Buffer, area: Rect, grid: Grid) {
        let side = grid.side;
        for (i, (row, class)) in self.rows.iter().zip(&self.classes).take(usize::from(grid.shown)).enumerate() {
            let x = area.x + i as u16 * (side + 1);
            buffer.set_stringn(x, area.y, class, usize::from(side), ratatui::style::Style::new());
            for (n, sample) in row.iter().take(usize::from(grid.samples)).enumerate() {
                let thumbnail = imageops::thumbnail(sample, u32::from(side), u32::from(side));
                let y = area.y + 1 + n as u16 * side / 2;
                half_blocks(buffer, Rect::new(x, y, side, side / 2).intersection(area), &thumbnail);
            }
        }
    }
}

/// How thumbnails are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    /// Columns of one, and twice its lines.
    side: u16,
    /// Classes across.
    shown: u16,
    /// Samples of each.
    samples: u16,
}

impl Grid {
    /// Lines that it takes, names included.
    pub(crate) fn lines(self) -> u16 {
        1 + self.samples * self.side / 2
    }
}

/// The last grid in a stage's folder; their names hold the step with leading zeros.
fn grid_of(stage: &Path) -> Option<PathBuf> {
    let is_grid = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("samples-") && name.ends_with(".png"))
    };
    std::fs::read_dir(stage).ok()?.filter_map(|entry| Some(entry.ok()?.path())).filter(is_grid).max()
}

/// The images of a grid as `gafi_gan::grid::png_grid` makes it, row by row; none if it is no grid of such images.
fn cut(grid: &RgbImage, image: &ImageSpec, rows: usize) -> Option<Vec<Vec<RgbImage>>> {
    let (width, height) = (image.width + GRID_GAP, image.height + GRID_GAP);
    let columns = (grid.width() as usize).checked_sub(GRID_GAP)? / width;
    if grid.width() as usize != columns * width + GRID_GAP || grid.height() as usize != rows * height + GRID_GAP {
        return None;
    }
    let at = |row: usize, column: usize| {
        let (x, y) = (GRID_GAP + column * width, GRID_GAP + row * height);
        imageops::crop_imm(grid, x as u32, y as u32, image.width as u32, image.height as u32).to_image()
    };
    Some((0..rows).map(|row| (0..columns).map(|column| at(row, column)).collect()).collect())
}

fn half_blocks(buffer: &mut Buffer, area: Rect, picture: &RgbImage) {
    let colour = |x: u16, y: u16| {
        let [r, g, b] = picture.get_pixel(u32::from(x), u32::from(y)).0;
        Color::Rgb(r, g, b)
    };
    for position in area.positions() {
        let (x, y) = (position.x - area.x, 2 * (position.y - area.y));
        if let Some(cell) = buffer.cell_mut(position) {
            cell.set_char('▀').set_fg(colour(x, y)).set_bg(colour(x, y + 1));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run with a grid: two classes of three samples: red ones above, blue below; the left column white in the first sample of each.
    pub(crate) fn run() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let spec = ImageSpec::new(3, 8, 8);
        let mut pixels = Vec::new();
        for row in 0..2usize {
            for column in 0..3 {
                let value = |c: usize, y: usize, x: usize| match (column, x) {
                    (0, 0) => 255,
                    _ if c == 0 && y < 4 => 200 - 100 * row as u8,
                    _ if c == 2 && y >= 4 => 200,
                    _ => 0,
                };
                pixels.extend((0..3 * 64).map(|i| value(i / 64, i / 8 % 8, i % 8)));
            }
        }
        let png = gafi_gan::grid::png_grid(&pixels, &spec, 3).unwrap();
        std::fs::create_dir_all(dir.path().join("import-a")).unwrap();
        let manifest = serde_json::json!({"content": {"image": spec, "classes": ["cat", "dog"]}});
        std::fs::write(dir.path().join("import-a").join(MANIFEST_FILE), manifest.to_string()).unwrap();
        let gan = dir.path().join(".train-gan-b.partial");
        std::fs::create_dir_all(&gan).unwrap();
        std::fs::write(gan.join("samples-00000500.png"), "old").unwrap();
        std::fs::write(gan.join("samples-00001000.png"), png).unwrap();
        dir
    }

    fn newest(dir: &Path) -> Option<Samples> {
        Samples::newest(dir, &crate::run_folder::stages(dir).unwrap(), None)
    }

    #[test]
    fn the_newest_grid_is_cut_into_samples() {
        let dir = run();
        let samples = newest(dir.path()).unwrap();
        assert_eq!(samples.name, "train-gan-b, samples-00001000.png");
        assert_eq!((samples.rows.len(), samples.rows[0].len()), (2, 3));
        assert_eq!(samples.rows[1][0].get_pixel(0, 0).0, [255; 3]);
        assert_eq!(samples.rows[1][2].get_pixel(7, 0).0, [100, 0, 0]);
        // A file that is no such grid is no samples.
        std::fs::write(dir.path().join(".train-gan-b.partial/samples-00001500.png"), "half").unwrap();
        assert!(newest(dir.path()).is_none());
    }

    #[test]
    fn thumbnails_take_the_room_there_is() {
        let samples = newest(run().path()).unwrap();
        let grid = |side, shown, samples| Some(Grid { side, shown, samples });
        assert_eq!(samples.layout(100, 18), grid(32, 2, 1));
        assert_eq!(samples.layout(100, 9), grid(16, 2, 1), "as high as there are lines");
        assert_eq!(samples.layout(21, 40), grid(10, 2, 3), "as wide as there are columns, and all samples");
        assert_eq!(samples.layout(16, 20), grid(8, 1, 3), "a class that does not fit is left out");
        assert_eq!(samples.layout(100, 4), None);
        assert_eq!(samples.layout(7, 20), None);
    }

    #[test]
    fn half_blocks_hold_two_pixels_each() {
        let samples = newest(run().path()).unwrap();
        let area = Rect::new(0, 0, 20, 5);
        let (mut buffer, grid) = (Buffer::empty(area), samples.layout(20, 5).unwrap());
        samples.draw(&mut buffer, area, grid);
        let line = |y: u16| (0..20).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        assert_eq!(line(0).trim_end(), "cat      dog");
        assert_eq!(line(1), "▀▀▀▀▀▀▀▀ ▀▀▀▀▀▀▀▀   ");
        assert_eq!((buffer[(0, 1)].fg, buffer[(0, 1)].bg), (Color::Rgb(255, 255, 255), Color::Rgb(255, 255, 255)));
        assert_eq!((buffer[(1, 2)].fg, buffer[(1, 3)].bg), (Color::Rgb(200, 0, 0), Color::Rgb(0, 0, 200)));
        assert_eq!(buffer[(10, 1)].fg, Color::Rgb(100, 0, 0));
    }
}
