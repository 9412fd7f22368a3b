//! Splits in the names of folders and files: `train`, `test_set`, `seg_train`, `train-00000-of-00005`.

use gafi_core::Split;

/// Words that say nothing about what is in a folder.
const NEUTRAL: [&str; 48] = [
    "set",
    "sets",
    "data",
    "dataset",
    "datasets",
    "image",
    "images",
    "img",
    "imgs",
    "pic",
    "pics",
    "picture",
    "pictures",
    "photo",
    "photos",
    "seg",
    "aug",
    "augment",
    "augmented",
    "augmentation",
    "raw",
    "original",
    "orig",
    "resized",
    "cropped",
    "full",
    "all",
    "new",
    "final",
    "clean",
    "split",
    "splits",
    "folder",
    "dir",
    "part",
    "parts",
    "small",
    "big",
    "mini",
    "sample",
    "samples",
    "classification",
    "jpg",
    "jpeg",
    "png",
    "of",
    "my",
    "the",
];

/// The split that a word stands for, alone or followed by a word like `set`.
fn split_of_word(word: &str) -> Option<Split> {
    let of = |word: &str| match word {
        "train" | "training" | "trn" | "trainval" => Some(Split::Train),
        "val" | "valid" | "validation" | "validate" | "dev" => Some(Split::Val),
        "test" | "testing" | "tst" => Some(Split::Test),
        _ => None,
    };
    of(word).or_else(|| {
        let stems = ["set", "data", "dataset", "images", "imgs", "img", "folder", "dir", "split"];
        stems.iter().find_map(|end| of(word.strip_suffix(end)?))
    })
}

/// The words of a name in lower case. Digits, punctuation and inner capitals separate them.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut lower = false;
    for c in name.chars() {
        if !c.is_alphabetic() {
            words.push(String::new());
        } else {
            if c.is_uppercase() && lower {
                words.push(String::new());
            }
            if let Some(word) = words.last_mut() {
                word.extend(c.to_lowercase());
            }
        }
        lower = c.is_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

/// A name that contains one split, and its other words except neutral ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SplitName {
    pub(crate) split: Split,
    pub(crate) rest: Vec<String>,
}

/// Looks for a split in a name; `None` unless there is exactly one.
pub(crate) fn split_in(name: &str) -> Option<SplitName> {
    let mut split = None;
    let mut rest = Vec::new();
    for word in words(name) {
        match split_of_word(&word) {
            Some(found) if split.is_some_and(|split| split != found) => return None,
            Some(found) => split = Some(found),
            None if NEUTRAL.contains(&word.as_str()) => {}
            None => rest.push(word),
        }
    }
    Some(SplitName { split: split?, rest })
}

/// The split that a name stands for. Its other words must all be neutral.
pub(crate) fn split_of(name: &str) -> Option<Split> {
    split_in(name).filter(|found| found.rest.is_empty()).map(|found| found.split)
}

/// Whether a name says nothing about what is in a folder: `images`, `part 2`, `0001`.
pub(crate) fn is_neutral(name: &str) -> bool {
    words(name).iter().all(|word| NEUTRAL.contains(&word.as_str()))
}

/// Whether names differ only in a number, and say that the folders are parts of one set: `HAM10000_images_part_1`.
pub(crate) fn are_numbered_parts<'a>(names: impl IntoIterator<Item = &'a str>) -> bool {
    let all: Vec<Vec<String>> = names.into_iter().map(words).collect();
    let neutral = |word: &String| NEUTRAL.contains(&word.as_str());
    all.len() > 1 && all.iter().all(|words| *words == all[0]) && all[0].iter().any(neutral)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_found_in_names() {
        for (names, split) in [
            (
                &[
                    "train",
                    "Training",
                    "training_set",
                    "seg_train",
                    "train_augmented",
                    "trainset",
                    "train2017",
                    "TrainImages",
                ][..],
                Some(Split::Train),
            ),
            (&["val", "valid", "validation", "Validation-Set", "dev", "valid_images"], Some(Split::Val)),
            (&["test", "testing", "test_set", "seg_test", "TEST", "test-00000-of-00005"], Some(Split::Test)),
            (
                &[
                    "train station",
                    "bullet_train",
                    "test_tube",
                    "seg_pred",
                    "cat",
                    "contest",
                    "valley",
                    "train_test_split",
                    "0",
                    "",
                ],
                None,
            ),
        ] {
            for name in names {
                assert_eq!(split_of(name), split, "{name}");
            }
        }
        let rest = |name| split_in(name).map(|found| (found.split, found.rest.join(" ")));
        assert_eq!(rest("flowers_train"), Some((Split::Train, "flowers".into())));
        assert_eq!(rest("flowers"), None);
        assert!(are_numbered_parts(["HAM_images_part_1", "HAM_images_part_2"]) && !are_numbered_parts(["c0", "c1"]));
        assert!(is_neutral("images_part_1") && is_neutral("0001") && !is_neutral("cats"));
    }
}
