//! [`NamedSet`]: the sets known by name, with their classes.

use serde::{Deserialize, Serialize};

use crate::formats::cifar::Variant;
use crate::shapes::SHAPE_NAMES;

/// A set known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum NamedSet {
    /// The built-in procedural set; needs no files.
    Shapes,
    /// 28x28 grey images of clothes (Xiao, Rasul & Vollgraf 2017): 60,000 for training, 10,000 for testing.
    FashionMnist,
    /// 28x28 grey images of handwritten digits (LeCun, Cortes & Burges 1998): 60,000 and 10,000.
    Mnist,
    /// 32x32 colour photographs in 10 classes (Krizhevsky 2009): 50,000 and 10,000.
    Cifar10,
    /// 32x32 colour photographs in 100 classes (Krizhevsky 2009): 50,000 and 10,000.
    Cifar100,
}

impl NamedSet {
    /// All named sets.
    pub const ALL: [Self; 5] = [Self::Shapes, Self::FashionMnist, Self::Mnist, Self::Cifar10, Self::Cifar100];

    /// The name in a configuration, such as `fashion-mnist`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shapes => "shapes",
            Self::FashionMnist => "fashion-mnist",
            Self::Mnist => "mnist",
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
        }
    }

    /// Whether mirroring an image keeps its class. A mirrored digit is no longer that digit.
    pub const fn keeps_classes_when_mirrored(self) -> bool {
        !matches!(self, Self::Mnist)
    }

    /// The class names, in label order.
    pub fn classes(self) -> Vec<String> {
        let names: &[&str] = match self {
            Self::Shapes => &SHAPE_NAMES,
            Self::FashionMnist => &FASHION_MNIST,
            Self::Mnist => &MNIST,
            Self::Cifar10 => Variant::Cifar10.classes(),
            Self::Cifar100 => Variant::Cifar100.classes(),
        };
        names.iter().map(ToString::to_string).collect()
    }
}

impl std::fmt::Display for NamedSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

const FASHION_MNIST: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

const MNIST: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_configurations_and_classes_are_unique() {
        for set in NamedSet::ALL {
            assert_eq!(serde_json::to_value(set).unwrap(), set.name());
            let mut unique = set.classes();
            unique.sort();
            unique.dedup();
            assert_eq!(unique.len(), if set == NamedSet::Cifar100 { 100 } else { 10 });
        }
    }
}
