//! Draws stratified, disjoint subsets of rows from labels and a seed.

use gafi_core::{Error, Result, Stream, stream};

/// How many rows of each class to hold out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Share {
    /// This fraction of each class, rounded to the nearest integer, at least 1 and at most all but 1.
    Fraction(f64),
    /// This many of each class.
    PerClass(usize),
}

/// How many rows to keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Take {
    /// This many of each class.
    PerClass(usize),
    /// This many in total, in the proportions of the classes.
    Total(usize),
}

/// Splits `rows` into those held out and the rest. Both are ascending, and each class is in both. The choice depends only on
/// `stream`, the class and the rows of the class. `key` names the setting in errors.
pub(crate) fn hold_out(
    labels: &[u32],
    rows: &[usize],
    classes: &[String],
    share: Share,
    key: &str,
    stream: &Stream,
) -> Result<(Vec<usize>, Vec<usize>)> {
    let mut held = Vec::new();
    let mut rest = Vec::new();
    for (class, own) in by_class(labels, rows, classes.len()).into_iter().enumerate() {
        let name = &classes[class];
        if own.len() < 2 {
            let hint = "min_per_class = 2 with small_classes = \"drop\" or \"merge\" handles such classes";
            let expected =
                format!("at least 2 rows of every class to split; class {class} ({name}) has {}; {hint}", own.len());
            return Err(Error::config(key, show(share), expected));
        }
        let count = match share {
            Share::Fraction(f) => ((own.len() as f64 * f).round() as usize).clamp(1, own.len() - 1),
            Share::PerClass(n) if (1..own.len()).contains(&n) => n,
            Share::PerClass(_) => {
                let expected = format!("1 to {}: class {class} ({name}) has {} rows", own.len() - 1, own.len());
                return Err(Error::config(key, show(share), expected));
            }
        };
        let order = stream::permutation(own.len(), &stream.at(class as u64));
        held.extend(order[..count].iter().map(|&i| own[i]));
        rest.extend(order[count..].iter().map(|&i| own[i]));
    }
    held.sort_unstable();
    rest.sort_unstable();
    Ok((held, rest))
}

/// Keeps some of `rows`, at least one of each class, ascending. Subsets are nested: keeping more rows of a class keeps all
/// rows that fewer would keep.
pub(crate) fn subset(
    labels: &[u32],
    rows: &[usize],
    classes: &[String],
    take: Take,
    key: &str,
    stream: &Stream,
) -> Result<Vec<usize>> {
    let own = by_class(labels, rows, classes.len());
    let counts = match take {
        Take::PerClass(n) => vec![n; own.len()],
        Take::Total(n) => apportion(n, &own.iter().map(Vec::len).collect::<Vec<_>>(), key)?,
    };
    for (class, (own, &count)) in own.iter().zip(&counts).enumerate() {
        if !(1..=own.len()).contains(&count) {
            let expected = format!("1 to {}, the rows of class {class} ({})", own.len(), classes[class]);
            return Err(Error::config(key, count, expected));
        }
    }
    Ok(draw(&own, &counts, stream))
}

/// Up to `n` of `rows` of each class, ascending. Subsets are nested like those of [`subset`].
pub(crate) fn sample(labels: &[u32], rows: &[usize], classes: usize, n: usize, stream: &Stream) -> Vec<usize> {
    draw(&by_class(labels, rows, classes), &vec![n; classes], stream)
}

/// Up to this many of the rows of each class, ascending.
fn draw(own: &[Vec<usize>], counts: &[usize], stream: &Stream) -> Vec<usize> {
    let mut kept = Vec::new();
    for (class, (own, &count)) in own.iter().zip(counts).enumerate() {
        let order = stream::permutation(own.len(), &stream.at(class as u64));
        kept.extend(order.iter().take(count).map(|&i| own[i]));
    }
    kept.sort_unstable();
    kept
}

/// Divides `n` in the proportions of `sizes` by largest remainder (ties go to the lower class), at least 1 each.
fn apportion(n: usize, sizes: &[usize], key: &str) -> Result<Vec<usize>> {
    let total: usize = sizes.iter().sum();
    if n < sizes.len() || n > total {
        let expected = format!("{} (one row per class) to {total} (all rows)", sizes.len());
        return Err(Error::config(key, n, expected));
    }
    let exact = |s: usize| s as u128 * n as u128;
    let mut counts: Vec<usize> =
        sizes.iter().map(|&s| ((exact(s) / total as u128) as usize).clamp(1, s.max(1))).collect();
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&c| (std::cmp::Reverse(exact(sizes[c]) % total as u128), c));
    // Rounding down leaves rows to hand out, and the minimum of 1 may have handed out too many.
    while counts.iter().sum::<usize>() != n {
        let missing = counts.iter().sum::<usize>() < n;
        for &c in &order {
            if counts.iter().sum::<usize>() == n {
                break;
            }
            if missing && counts[c] < sizes[c] {
                counts[c] += 1;
            } else if !missing && counts[c] > 1 {
                counts[c] -= 1;
            }
        }
    }
    Ok(counts)
}

fn by_class(labels: &[u32], rows: &[usize], classes: usize) -> Vec<Vec<usize>> {
    let mut own = vec![Vec::new(); classes];
    for &row in rows {
        own[labels[row] as usize].push(row);
    }
    own
}

fn show(share: Share) -> String {
    match share {
        Share::Fraction(f) => f.to_string(),
        Share::PerClass(n) => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| i.to_string()).collect()
    }

    proptest! {
        #[test]
        fn parts_are_disjoint_complete_and_stratified(sizes in prop::collection::vec(2usize..40, 1..6), f in 0.01f64..0.99, seed: u64) {
            let mut labels: Vec<u32> = sizes.iter().enumerate().flat_map(|(c, &n)| vec![c as u32; n]).collect();
            let order = stream::permutation(labels.len(), &Stream::new(seed ^ 1));
            labels = order.iter().map(|&i| labels[i]).collect();
            let rows: Vec<usize> = (0..labels.len()).collect();
            let (held, rest) =
                hold_out(&labels, &rows, &names(sizes.len()), Share::Fraction(f), "val_fraction", &Stream::new(seed)).unwrap();
            let mut all = [held.clone(), rest.clone()].concat();
            prop_assert!(held.is_sorted() && rest.is_sorted());
            all.sort_unstable();
            prop_assert_eq!(all, rows);
            for (c, &n) in sizes.iter().enumerate() {
                let in_held = held.iter().filter(|&&r| labels[r] as usize == c).count();
                prop_assert!(in_held >= 1 && in_held < n);
                prop_assert!((in_held as f64 - n as f64 * f).abs() <= 1.0);
            }
        }

        #[test]
        fn subsets_are_nested_and_proportional(sizes in prop::collection::vec(1usize..50, 1..6), a in 0usize..200, b in 0usize..200) {
            let labels: Vec<u32> = sizes.iter().enumerate().flat_map(|(c, &n)| vec![c as u32; n]).collect();
            let rows: Vec<usize> = (0..labels.len()).collect();
            let total = labels.len();
            let k = sizes.len();
            let small = a.min(b).clamp(k, total);
            let large = a.max(b).clamp(k, total);
            let take = |n| subset(&labels, &rows, &names(k), Take::Total(n), "limit", &Stream::new(3)).unwrap();
            prop_assert_eq!(take(small).len(), small);
            prop_assert_eq!(take(large).len(), large);
            prop_assert_eq!(take(total), rows.clone());
            let per_class = |n| subset(&labels, &rows, &names(k), Take::PerClass(n), "per_class", &Stream::new(3)).unwrap();
            let most = *sizes.iter().min().unwrap();
            let few = per_class(1);
            let many = per_class(most);
            prop_assert!(few.iter().all(|r| many.contains(r)));
        }
    }

    #[test]
    fn errors_name_the_class_that_cannot_be_split() {
        let labels = [0, 0, 1];
        let error = hold_out(&labels, &[0, 1, 2], &names(2), Share::Fraction(0.5), "val_fraction", &Stream::new(0));
        assert_eq!(
            error.unwrap_err().to_string(),
            "val_fraction = 0.5: expected at least 2 rows of every class to split; class 1 (1) has 1; \
             min_per_class = 2 with small_classes = \"drop\" or \"merge\" handles such classes"
        );
        let error = hold_out(&labels, &[0, 1, 2], &names(2), Share::PerClass(2), "val_per_class", &Stream::new(0));
        assert!(error.unwrap_err().to_string().starts_with("val_per_class = 2: expected 1 to 1: class 0"));
        let error = subset(&labels, &[0, 1, 2], &names(2), Take::Total(1), "limit", &Stream::new(0));
        assert_eq!(error.unwrap_err().to_string(), "limit = 1: expected 2 (one row per class) to 3 (all rows)");
    }

    #[test]
    fn the_seed_decides_the_split() {
        let labels = vec![0u32; 100];
        let rows: Vec<usize> = (0..100).collect();
        let held = |seed| hold_out(&labels, &rows, &names(1), Share::PerClass(10), "v", &Stream::new(seed)).unwrap().0;
        assert_eq!(held(1), held(1));
        assert_ne!(held(1), held(2));
    }
}
