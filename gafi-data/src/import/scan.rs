//! The first pass over all images of a source: which can be read, their sizes and modes, and fingerprints to find images in several
//! splits. It keeps the pixels of small sets, so that the second pass, which writes datasets, decodes only what did not fit.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;

use gafi_core::{Context, Error, ImageSpec, Result};
use rayon::prelude::*;

use super::colour::{Window, fitting_window};
use super::config::{ImportConfig, OnUnreadable};
use super::decode::{Decoding, FULL_WINDOW, Facts, decode};
use super::duplicates::Fingerprint;
use super::geometry::{Fit, Misfit};
use super::parts::{PARTS, Parts};
use crate::note::{EXAMPLES, Note, NoteKind};
use crate::source::{Item, Location, Source};

/// Maximum numbers of images and of encoded bytes read at once: enough work for all cores.
const READ_ROWS: usize = 1024;
const READ_BYTES: usize = 32 << 20;
/// Maximum number of bytes of decoded images at once. A single larger image is allowed.
pub(super) const DECODED_BYTES: usize = 64 << 20;
/// Maximum number of bytes of pixels kept for the second pass.
const KEPT_BYTES: usize = 256 << 20;

/// How many more unreadable images an error names after the first.
const LISTED: usize = 20;

/// What the first pass found.
pub(super) struct Scan {
    /// The shape of all images in the dataset.
    pub(super) spec: ImageSpec,
    /// How images are decoded, with the resolved window of 16-bit images.
    pub(super) decoding: Decoding,
    pub(super) parts: [Option<ScannedPart>; PARTS],
    /// Number of images of each size, (rows, columns).
    pub(super) sizes: BTreeMap<(usize, usize), u64>,
    pub(super) modes: BTreeMap<String, u64>,
    pub(super) notes: Vec<Note>,
}

/// What the first pass found in one part of the source.
#[derive(Default)]
pub(super) struct ScannedPart {
    /// `None` for unreadable rows.
    pub(super) prints: Vec<Option<Fingerprint>>,
    /// The pixels of the first rows, in the shape of the dataset.
    kept: Vec<u8>,
}

impl ScannedPart {
    /// The pixels of a row, if they were kept.
    pub(super) fn kept(&self, row: usize, spec: ImageSpec) -> Option<&[u8]> {
        self.kept.get(row * spec.bytes()..(row + 1) * spec.bytes())
    }
}

/// Counts a converted image for the report.
fn count(notes: &mut Vec<Note>, what: String, example: impl FnOnce() -> String) {
    let known = notes.iter().position(|note| note.what == what);
    let number = known.unwrap_or_else(|| {
        notes.push(Note::new(NoteKind::Converted, 0, what));
        notes.len() - 1
    });
    notes[number].add(example);
}

/// A row relative to the source: its file, or its place in one.
pub(super) fn name(at: &Location, root: Option<&Path>) -> String {
    let path = root.and_then(|root| at.path.strip_prefix(root).ok()).unwrap_or(&at.path);
    let path = if path.as_os_str().is_empty() { Path::new(at.path.file_name().unwrap_or_default()) } else { path };
    // An absolute path would make the report depend on where the source is.
    let path = if path.is_absolute() { Path::new(path.file_name().unwrap_or_default()) } else { path };
    if at.place == "image" { path.display().to_string() } else { format!("{}, {}", path.display(), at.place) }
}

/// What the first pass found in one image.
struct Seen {
    spec: ImageSpec,
    print: Fingerprint,
    /// The pixels in the shape of the dataset, if they are kept.
    shaped: std::result::Result<Option<Vec<u8>>, Misfit>,
}

impl Scan {
    /// Decodes every image of `parts` once.
    ///
    /// # Errors
    /// [`Error::Format`] for unreadable images, unless they are skipped, and for images that do not have the shape of the first;
    /// [`Error::Interrupted`]; [`Error::Io`].
    pub(super) fn new(config: &ImportConfig, parts: &Parts, cx: &Context) -> Result<Self> {
        let geometry = config.geometry();
        let decoding = config.decoding();
        let train = &*parts.train;
        let all: Vec<usize> = (0..train.labels().len()).collect();
        let spec = first_shape(train, &all, config)?;
        let root = config.path.as_deref();
        let rows: usize = parts.all().map(|(_, source)| source.labels().len()).sum();
        let mut task = cx.progress.begin("check images", Some(rows as u64));
        let mut faults = Faults::default();
        let mut misfits = Misfits::default();
        let mut scan = Self {
            spec,
            decoding,
            parts: [None, None, None],
            sizes: BTreeMap::new(),
            modes: BTreeMap::new(),
            notes: Vec::new(),
        };
        let mut max16 = None;
        let mut keeping = true;
        let mut kept = 0;
        let most = (DECODED_BYTES / spec.bytes().max(1)).clamp(1, READ_ROWS);
        for (number, source) in parts.all() {
            let mut part = ScannedPart::default();
            let rows: Vec<usize> = (0..source.labels().len()).collect();
            // Rows are kept from the first on, until one does not fit.
            let keep_rows = if keeping { (KEPT_BYTES - kept) / spec.bytes().max(1) } else { 0 };
            let inspect = |item: Item| {
                let keep = item.row < keep_rows;
                decode(item.image, &decoding, |pixels| {
                    let original = pixels.spec;
                    let print = Fingerprint::of(&pixels);
                    let shaped = match geometry.shape(original) {
                        Err(misfit) => Err(misfit),
                        Ok(shape) if shape != spec => Err(Misfit::other_shape(shape, spec)),
                        Ok(_) if keep => geometry.apply(pixels).map(|pixels| Some(pixels.data)),
                        Ok(_) => Ok(None),
                    };
                    Seen { spec: original, print, shaped }
                })
            };
            let scanned = in_parallel(source, &rows, most, cx, inspect, |seen| {
                task.advance(seen.len() as u64);
                for (row, seen) in seen {
                    let at = || source.location(row);
                    let (seen, facts) = match seen {
                        Ok(seen) => seen,
                        Err(found) => {
                            faults.add(at(), found);
                            part.prints.push(None);
                            if row < keep_rows {
                                part.kept.resize((row + 1) * spec.bytes(), 0);
                            }
                            continue;
                        }
                    };
                    part.prints.push(Some(seen.print));
                    *scan.sizes.entry((seen.spec.height, seen.spec.width)).or_default() += 1;
                    *scan.modes.entry(format!("{}, {}", facts.format, facts.mode)).or_default() += 1;
                    max16 = max16.max(facts.max16);
                    scan.describe(seen.spec, facts, config.fit, || name(&at(), root));
                    match seen.shaped {
                        Ok(Some(pixels)) => part.kept.extend(pixels),
                        Ok(None) => {}
                        Err(misfit) => misfits.add(at, misfit),
                    }
                }
                Ok(())
            });
            match scanned {
                // The source failed after the unreadable images, which are reported first.
                Err(e) if !matches!(e, Error::Interrupted) && faults.count > 0 => return Err(faults.error(root)),
                scanned => scanned?,
            }
            keeping &= rows.len() <= keep_rows;
            kept += part.kept.len();
            scan.parts[number] = Some(part);
        }
        drop(task);
        if faults.count > 0 {
            match config.on_unreadable {
                OnUnreadable::Error => return Err(faults.error(root)),
                OnUnreadable::Skip => scan.notes.push(faults.note(root)),
            }
        }
        misfits.check()?;
        if let (Some(max), Window::Auto) = (max16, config.window) {
            let ([low, high], bits) = fitting_window(max);
            scan.decoding.window = [low, high];
            if scan.decoding.window != FULL_WINDOW {
                let why = format!("because {bits} bits hold the largest value, {max}");
                let scaled = scan.notes.iter_mut().filter(|note| note.what == scaled_from(FULL_WINDOW));
                scaled.for_each(|note| note.what = format!("{}, {why}", scaled_from([low, high])));
                scan.parts.iter_mut().flatten().for_each(|part| part.kept = Vec::new());
            }
        }
        Ok(scan)
    }

    /// Counts the conversions of an image of shape `original`, for the report.
    fn describe(&mut self, original: ImageSpec, facts: Facts, fit: Option<Fit>, place: impl Fn() -> String) {
        let mut converted = |what: String| count(&mut self.notes, what, &place);
        if facts.composited {
            converted(format!("transparent images composited on {}", self.decoding.background));
        }
        if facts.oriented {
            converted("images rotated or mirrored by their EXIF orientation".into());
        }
        if facts.max16.is_some() {
            converted(scaled_from(self.decoding.window));
        }
        if facts.format == "GIF" {
            converted("GIF images, of which the first frame is read".into());
        }
        let side = self.spec.height;
        if (original.height, original.width) != (side, self.spec.width) {
            let how = match fit {
                Some(Fit::Pad) => "padded",
                Some(Fit::Resize) => "resized",
                Some(Fit::Crop) => "scaled and cropped",
                None => return,
            };
            converted(format!("images {how} to {side}x{side}"));
        }
        match (original.channels, self.spec.channels) {
            (3, 1) => converted("colour images converted to grey".into()),
            (1, 3) => converted("grey images converted to three channels".into()),
            _ => {}
        }
    }
}

/// The note on images of 16 bits that are scaled from this window.
fn scaled_from([low, high]: [u16; 2]) -> String {
    format!("16-bit images scaled from [{low}, {high}]")
}

/// The unreadable images of a source.
#[derive(Default)]
struct Faults {
    found: Vec<(Location, String)>,
    count: u64,
}

impl Faults {
    fn add(&mut self, at: Location, found: String) {
        self.count += 1;
        if self.found.len() <= LISTED {
            self.found.push((at, found));
        }
    }

    /// Describes the first image, and lists the others.
    fn error(self, root: Option<&Path>) -> Error {
        let others = self.count - 1;
        let mut found = self.found.into_iter();
        let Some((first, mut why)) = found.next() else { return Error::Interrupted };
        if others > 0 {
            let short = |at: &Location| if at.path == first.path { at.place.clone() } else { name(at, root) };
            let names: Vec<String> = found.map(|(at, why)| format!("{} ({why})", short(&at))).collect();
            let rest = if others > names.len() as u64 { ", ..." } else { "" };
            why += &format!("; {others} more cannot be read: {}{rest}", names.join(", "));
        }
        first.error("a readable image (on_unreadable = \"skip\" leaves unreadable ones out)", why)
    }

    fn note(self, root: Option<&Path>) -> Note {
        let examples = self.found.iter().take(EXAMPLES).map(|(at, why)| format!("{} ({why})", name(at, root)));
        Note { examples: examples.collect(), ..Note::new(NoteKind::Skipped, self.count, "unreadable images") }
    }
}

/// The images that do not fit the configured shape or the shape of the first image.
#[derive(Default)]
struct Misfits {
    first: Option<(Location, Misfit)>,
    count: u64,
}

impl Misfits {
    fn add(&mut self, at: impl FnOnce() -> Location, misfit: Misfit) {
        self.count += 1;
        self.first.get_or_insert_with(|| (at(), misfit));
    }

    fn check(self) -> Result<()> {
        let Some((at, mut misfit)) = self.first else { return Ok(()) };
        if self.count > 1 {
            misfit.found += &format!(", and {} more images do not fit", self.count - 1);
        }
        Err(at.error(misfit.expected, misfit.found))
    }
}

/// Reads `rows` on one thread and runs `work` on all threads, for at most `most` rows at a time. `each` gets the results in order.
pub(super) fn in_parallel<T: Send>(
    source: &dyn Source,
    rows: &[usize],
    most: usize,
    cx: &Context,
    work: impl Fn(Item) -> T + Sync,
    mut each: impl FnMut(Vec<(usize, T)>) -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::sync_channel::<Vec<Item>>(1);
        let reader = scope.spawn(move || {
            let mut pending = Vec::new();
            let mut bytes = 0;
            // The receiver is gone after an error, which it returns itself.
            let send_all = |items: Vec<Item>| send.send(items).map_err(|_| Error::Interrupted);
            source.scan(rows, &mut |item| {
                bytes += item.image.bytes();
                pending.push(item);
                if pending.len() < most && bytes < READ_BYTES {
                    return Ok(());
                }
                bytes = 0;
                send_all(std::mem::take(&mut pending))
            })?;
            if pending.is_empty() { Ok(()) } else { send_all(pending) }
        });
        let mut done = Ok(());
        for items in receive {
            done = cx.checkpoint().and_then(|()| {
                let worked = items.into_par_iter().map(|item| (item.row, work(item))).collect();
                each(worked)
            });
            if done.is_err() {
                break;
            }
        }
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.and(read)
    })
}

/// The shape of the first readable image, which all others must have as well.
pub(super) fn first_shape(source: &dyn Source, rows: &[usize], config: &ImportConfig) -> Result<ImageSpec> {
    let geometry = config.geometry();
    let decoding = config.decoding();
    let mut found = None;
    let mut faults = Faults::default();
    let scanned = source.scan(rows, &mut |item| {
        let row = item.row;
        match decode(item.image, &decoding, |pixels| geometry.shape(pixels.spec)) {
            Ok((shape, _)) => found = Some((row, shape)),
            Err(fault) if faults.found.len() <= LISTED => {
                faults.add(source.location(row), fault);
                return Ok(());
            }
            Err(_) => {}
        }
        // Stops the scan after one image.
        Err(Error::Interrupted)
    });
    match found {
        Some((row, shape)) => shape.map_err(|misfit| source.location(row).error(misfit.expected, misfit.found)),
        None if faults.count > 0 => Err(faults.error(None)),
        None => {
            scanned?;
            Err(source.location(0).error("at least one row", "no rows"))
        }
    }
}
