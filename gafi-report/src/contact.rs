//! A contact sheet of a dataset: the oddest images of each class, and with a teacher the likeliest label errors.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Context as _, Result};
use gafi_core::{Artifact, ClassId, Context, Dataset, DatasetInfo, INFERENCE_BATCH, ImageSpec, Rows};
use maud::{DOCTYPE, Markup, html};

use crate::page::head;
use crate::thumbnail::data_url;

/// Images of each kind for a class.
const EACH: usize = 6;
/// Classes on a page.
const CLASSES: usize = 200;
/// Label errors on a page.
const ERRORS: usize = 60;

/// What is measured of each image.
#[derive(Debug, Clone, Copy)]
struct Measures {
    row: usize,
    label: u32,
    /// Mean of all values, 0 to 255.
    brightness: f64,
    /// Variance of the Laplacian of the brightness, low for blurred images (Pech-Pacheco et al., ICPR 2000).
    sharpness: f64,
    /// Hash of the pixels.
    hash: u64,
}

/// The contact sheet of `dataset` as one HTML page that loads nothing: for each class the darkest, lightest, blurriest and most
/// duplicated images. With `teacher`, also the likeliest label errors by confident learning. The page contains images of the
/// dataset.
///
/// # Errors
/// When an artifact cannot be read, the teacher is for a different image shape or number of classes, or a network fails;
/// [`gafi_core::Error::Interrupted`].
pub fn contact_sheet(dataset: &Artifact, teacher: Option<&Artifact>, cx: &Context) -> Result<String> {
    let set = Dataset::open(dataset)?;
    let info = set.info().clone();
    let measures = measure(&set, cx)?;
    let mut copies: HashMap<u64, u32> = HashMap::new();
    measures.iter().for_each(|m| *copies.entry(m.hash).or_default() += 1);
    let figure = |row: usize, caption: String| -> Result<Markup> {
        let id = set.ids(&[row])?[0];
        let title = format!("row {row}, index {id}: {caption}");
        let mut pixels = vec![0; info.image.bytes()];
        set.read(&[row], &mut pixels)?;
        let picture = data_url(&pixels, &info.image)?;
        Ok(html! { figure { img src=(picture) alt=(title) title=(title); figcaption { (caption) } } })
    };
    let errors = teacher.map(|teacher| -> Result<_> {
        let found = label_errors(&set, teacher, cx)?;
        let shown = found.iter().take(ERRORS).map(|error| {
            let names = [error.label, error.likely].map(|class| info.classes[class as usize].as_str());
            figure(error.row, format!("{}, likely {} ({:.0} %)", names[0], names[1], 100.0 * error.probability))
        });
        Ok((found.len(), shown.collect::<Result<Vec<_>>>()?))
    });
    let errors = errors.transpose()?;
    let mut classes = Vec::new();
    for (class, name) in info.classes.iter().enumerate().take(CLASSES) {
        let own: Vec<Measures> = measures.iter().filter(|m| m.label as usize == class).copied().collect();
        let mut kinds = Vec::new();
        for (kind, found) in oddest(&own, &copies) {
            let figures = found.into_iter().map(|(row, caption)| figure(row, caption)).collect::<Result<Vec<_>>>()?;
            kinds.push((kind, figures));
        }
        classes.push((class, name, own.len(), kinds));
    }
    Ok(page(&info, &classes, errors.as_ref()))
}

type Kinds = Vec<(&'static str, Vec<Markup>)>;

fn page(
    info: &DatasetInfo,
    classes: &[(usize, &String, usize, Kinds)],
    errors: Option<&(usize, Vec<Markup>)>,
) -> String {
    const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";
    const STYLE: &str = "figure{display:inline-block;margin:4px;text-align:center;vertical-align:top;max-width:9em}\
                         figure img{image-rendering:pixelated;width:64px;height:64px}\
                         figcaption{font-size:.75em;overflow-wrap:anywhere}";
    let title = format!("GaFi contact sheet: split {}", info.split);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            (head(&title, "gafi-cli inspect", POLICY, STYLE))
            body {
                header {
                    h1 { (title) }
                    p { (info.rows()) " images of " (info.image) " in " (info.classes.len()) " classes. This page contains images of the set." }
                    @if classes.len() < info.classes.len() { p.warn { "The first " (classes.len()) " classes are shown." } }
                }
                main {
                    @if let Some((all, figures)) = errors {
                        section { h2 { "Likeliest label errors" }
                            p { (all) " of " (info.rows()) " labels are doubtful by confident learning (Northcutt, Jiang & Chuang 2021, arXiv \
                                1911.00068): the teacher's probability of another class is at least its mean among images of that class. The \
                                " (figures.len()) " with the largest margin are shown. A teacher that was trained on these images has learned \
                                their labels, and finds fewer errors." }
                            @for figure in figures { (figure) }
                        }
                    }
                    @for (class, name, rows, kinds) in classes {
                        section { h2 { (class) ": " (name) " (" (rows) " images)" }
                            @for (kind, figures) in kinds { @if !figures.is_empty() {
                                h3 { (kind) }
                                @for figure in figures { (figure) }
                            } }
                        }
                    }
                }
            }
        }
    };
    page.into_string()
}

fn measure(set: &Dataset, cx: &Context) -> Result<Vec<Measures>> {
    let mut measures = Vec::with_capacity(set.len());
    let mut task = cx.progress.begin("contact sheet", Some(set.len() as u64));
    let spec = set.info().image;
    for batch in set.batches() {
        cx.checkpoint()?;
        let batch = batch?;
        for (image, label) in batch.images.chunks_exact(spec.bytes()).zip(&batch.labels) {
            measures.push(of_image(measures.len(), label.0, image, &spec));
        }
        task.advance(batch.len() as u64);
    }
    Ok(measures)
}

fn of_image(row: usize, label: u32, image: &[u8], spec: &ImageSpec) -> Measures {
    let plane = spec.height * spec.width;
    let grey: Vec<f64> = (0..plane)
        .map(|at| image.iter().skip(at).step_by(plane).map(|&v| f64::from(v)).sum::<f64>() / spec.channels as f64)
        .collect();
    let brightness = grey.iter().sum::<f64>() / plane as f64;
    let at = |y: usize, x: usize| grey[y * spec.width + x];
    let mut sum = 0.0;
    let mut squares = 0.0;
    let mut n = 0.0;
    for y in 1..spec.height.saturating_sub(1) {
        for x in 1..spec.width.saturating_sub(1) {
            let value = at(y - 1, x) + at(y + 1, x) + at(y, x - 1) + at(y, x + 1) - 4.0 * at(y, x);
            sum += value;
            squares += value * value;
            n += 1.0;
        }
    }
    let sharpness = if n > 0.0 { squares / n - (sum / n) * (sum / n) } else { 0.0 };
    let mut hasher = DefaultHasher::new();
    image.hash(&mut hasher);
    Measures { row, label, brightness, sharpness, hash: hasher.finish() }
}

/// The oddest images of a class: for each kind the rows with captions.
fn oddest(own: &[Measures], copies: &HashMap<u64, u32>) -> Vec<(&'static str, Vec<(usize, String)>)> {
    let first = |key: &dyn Fn(&Measures) -> f64, caption: &dyn Fn(&Measures) -> String| {
        let mut sorted: Vec<&Measures> = own.iter().collect();
        sorted.sort_by(|a, b| key(a).total_cmp(&key(b)).then(a.row.cmp(&b.row)));
        sorted.into_iter().take(EACH).map(|m| (m.row, caption(m))).collect::<Vec<_>>()
    };
    let brightness = |m: &Measures| format!("mean {:.0}", m.brightness);
    let times = |m: &Measures| copies.get(&m.hash).copied().unwrap_or(1);
    // One image of each group of copies.
    let mut seen = std::collections::HashSet::new();
    let mut duplicated: Vec<&Measures> = own.iter().filter(|m| times(m) > 1 && seen.insert(m.hash)).collect();
    duplicated.sort_by_key(|m| (std::cmp::Reverse(times(m)), m.row));
    vec![
        ("Darkest", first(&|m| m.brightness, &brightness)),
        ("Lightest", first(&|m| -m.brightness, &brightness)),
        ("Blurriest", first(&|m| m.sharpness, &|m| format!("sharpness {:.0}", m.sharpness))),
        (
            "Most duplicated",
            duplicated.into_iter().take(EACH).map(|m| (m.row, format!("{} times in the set", times(m)))).collect(),
        ),
    ]
}

/// A label that is probably wrong.
#[derive(Debug, Clone, PartialEq)]
struct LabelError {
    row: usize,
    label: u32,
    likely: u32,
    /// The teacher's probability of `likely`.
    probability: f32,
    /// By how much it exceeds that of `label`.
    margin: f32,
}

fn label_errors(set: &Dataset, teacher: &Artifact, cx: &Context) -> Result<Vec<LabelError>> {
    let mut scorer = cx.models.open_scorer(teacher)?;
    let info = set.info();
    anyhow::ensure!(
        *scorer.image() == info.image && scorer.classes() == info.classes.len(),
        "expected a teacher of {} classes for images of {}, found one of {} classes for images of {}",
        info.classes.len(),
        info.image,
        scorer.classes(),
        scorer.image()
    );
    let mut task = cx.progress.begin("label errors", Some(set.len() as u64));
    let mut probabilities = Vec::with_capacity(set.len() * info.classes.len());
    let mut images = Vec::new();
    let rows: Vec<usize> = (0..set.len()).collect();
    for chunk in rows.chunks(INFERENCE_BATCH) {
        cx.checkpoint()?;
        images.resize(chunk.len() * info.image.bytes(), 0);
        set.read(chunk, &mut images)?;
        probabilities.extend(scorer.score(&images).context("the teacher failed")?);
        task.advance(chunk.len() as u64);
    }
    Ok(confident_learning(set.labels(), &probabilities, info.classes.len()))
}

/// The simple form of confident learning (Northcutt, Jiang & Chuang 2021, equation 1): the teacher is confident of a class for an
/// image if that class's probability is at least its mean among the images labelled with it. A label is doubtful if the likeliest
/// class that the teacher is confident of is another one. The largest margin comes first.
fn confident_learning(labels: &[ClassId], probabilities: &[f32], classes: usize) -> Vec<LabelError> {
    let mut sums = vec![0.0f64; classes];
    let mut counts = vec![0u64; classes];
    for (label, row) in labels.iter().zip(probabilities.chunks_exact(classes)) {
        sums[label.index()] += f64::from(row[label.index()]);
        counts[label.index()] += 1;
    }
    let thresholds: Vec<f64> = sums.iter().zip(&counts).map(|(sum, &n)| sum / n.max(1) as f64).collect();
    let mut errors: Vec<LabelError> = labels
        .iter()
        .zip(probabilities.chunks_exact(classes))
        .enumerate()
        .filter_map(|(row, (label, p))| {
            let confident = (0..classes).filter(|&c| counts[c] > 0 && f64::from(p[c]) >= thresholds[c]);
            let likely = confident.max_by(|&a, &b| p[a].total_cmp(&p[b]).then(b.cmp(&a)))?;
            let margin = p[likely] - p[label.index()];
            let error = LabelError { row, label: label.0, likely: likely as u32, probability: p[likely], margin };
            (likely != label.index()).then_some(error)
        })
        .collect();
    errors.sort_by(|a, b| b.margin.total_cmp(&a.margin).then(a.row.cmp(&b.row)));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubtful_labels_are_those_whose_confident_class_is_another() {
        let labels = [0, 0, 0, 1, 1, 1].map(ClassId);
        // Thresholds: class 0 (0.9 + 0.8 + 0.1) / 3 = 0.6, class 1 (0.7 + 0.9 + 0.35) / 3 = 0.65.
        let probabilities = [0.9, 0.1, 0.8, 0.2, 0.1, 0.9, 0.3, 0.7, 0.1, 0.9, 0.65, 0.35];
        let found = confident_learning(&labels, &probabilities, 2);
        let rows: Vec<_> = found.iter().map(|e| (e.row, e.label, e.likely)).collect();
        assert_eq!(rows, [(2, 0, 1), (5, 1, 0)]);
        assert!((found[0].margin - 0.8).abs() < 1e-6 && (found[1].probability - 0.65).abs() < 1e-6);
        // More likely another class, but below that class's threshold: not doubtful.
        let unsure = [0.9, 0.1, 0.8, 0.2, 0.45, 0.55, 0.3, 0.7, 0.1, 0.9, 0.1, 0.9];
        assert!(confident_learning(&labels, &unsure, 2).is_empty());
    }

    #[test]
    fn the_oddest_images_come_first() {
        let spec = ImageSpec::new(1, 8, 8);
        let flat = |value: u8| vec![value; 64];
        let checks: Vec<u8> = (0..64).map(|i| if (i / 8 + i % 8) % 2 == 0 { 0 } else { 255 }).collect();
        let images = [flat(100), flat(3), flat(250), checks.clone(), checks];
        let own: Vec<Measures> = images.iter().enumerate().map(|(row, image)| of_image(row, 0, image, &spec)).collect();
        let mut copies = HashMap::new();
        own.iter().for_each(|m| *copies.entry(m.hash).or_default() += 1);
        let found: HashMap<_, _> = oddest(&own, &copies).into_iter().collect();
        assert_eq!(found["Darkest"][0], (1, "mean 3".into()));
        assert_eq!(found["Lightest"][0], (2, "mean 250".into()));
        assert_eq!(found["Blurriest"].iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(found["Most duplicated"], [(3, "2 times in the set".into())]);
    }
}
