"""Dynamic Sample Filtering of samples that exist already."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _arrays, _gafi
from ._data import Dataset, Samples
from ._errors import UsageError
from ._models import Classifier, Teacher, scores_of
from ._tally import ClassTally


def filter(
    images: Any,
    labels: Any = None,
    teacher: Teacher | None = None,
    *,
    threshold: float = 0.0,
    classes: int | Sequence[str] | None = None,
    range: tuple[float, float] | None = None,
    batch_size: int = 256,
    keep_probabilities: bool = False,
) -> Samples:
    """Keeps the samples that `teacher` recognises: the label is its most likely class, with a probability above `threshold`.

    To fill a class up again, filter a source instead: `gafi.expand(generator, ...).filter(teacher, threshold=...)`.

    Args:
        images: uint8 (n, c, h, w), or floats with `range`. Or a `Samples`, a `Dataset` or the path of one; `labels` is left out then.
        labels: Classes, integers (n).
        teacher: A function from uint8 images (n, c, h, w) to probabilities (n, classes), a `torch.nn.Module`, a `Classifier`, or the
            path of a classifier artifact.
        threshold: In [0, 1).
        classes: Names of the classes, or their number. By default those of the dataset or of the teacher.
        range: The values of black and white, for floats.
        batch_size: Images judged at a time. It changes no result of a teacher that judges each image on its own.
        keep_probabilities: Whether the result has soft labels.

    Returns:
        The samples kept, in their order; `ids` are their rows, and `tally` counts each class.

    Raises:
        UsageError: For arrays that do not fit, or if the names of the classes are not the teacher's.
    """
    own_labels = isinstance(images, (str, os.PathLike, Dataset, Samples))
    if own_labels and teacher is None:
        labels, teacher = None, labels
    if teacher is None:
        raise TypeError("filter needs a teacher")
    if own_labels and labels is not None:
        raise TypeError("labels: the samples have their own; leave this out")
    if isinstance(images, (str, os.PathLike)):
        images = Dataset(images)
    if isinstance(images, (Dataset, Samples)) and classes is None:
        classes = images.classes
    if isinstance(images, Samples):
        images, labels = images.images, images.labels
    if isinstance(images, Dataset):
        dataset, requested = images, images.labels

        def read(rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
            return dataset[rows][0]
    else:
        pixels = _arrays.array(images)
        requested = _arrays.labels(labels, len(pixels))

        def read(rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
            return _arrays.images(pixels[rows], "images", range)

    if not 0.0 <= threshold < 1.0:
        raise UsageError(f"threshold={threshold}: expected at least 0 and below 1")
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size}: expected at least 1")
    if isinstance(teacher, (str, os.PathLike)):
        teacher = Classifier(teacher)
    if isinstance(teacher, Classifier):
        names = teacher.classes if classes is None else _arrays.class_names(classes)
        if len(names) == len(teacher.classes) and names != teacher.classes:
            expected, found = ", ".join(teacher.classes), ", ".join(names)
            raise UsageError(f"classes: the teacher's are {expected}, found {found}; if they mean the same, give the teacher's")
        classes = names
    n_classes = None if classes is None else len(_arrays.class_names(classes))
    score = scores_of(teacher, n_classes)
    kept, rejected = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int64)]
    confidence, soft = [np.zeros(0, np.float32)], []
    for start in np.arange(0, len(requested), batch_size).tolist():
        block = slice(start, start + batch_size)
        probabilities = score(read(block))
        if n_classes is not None and probabilities.shape[1] != n_classes:
            raise UsageError(f"teacher: expected probabilities of {n_classes} classes, found {probabilities.shape[1]}")
        n_classes = probabilities.shape[1]
        accepted, predicted, sure = _gafi.judge(probabilities, requested[block], threshold)
        kept.append(start + np.flatnonzero(accepted))
        confidence.append(sure[accepted])
        rejected.append(np.stack([requested[block][~accepted], predicted[~accepted]], axis=1))
        if keep_probabilities:
            soft.append(probabilities[accepted])
    rows, seen = np.concatenate(kept), np.concatenate(rejected)
    names = _arrays.class_names(n_classes or 0 if classes is None else classes)
    return Samples(
        images=read(rows),
        labels=requested[rows],
        classes=names,
        ids=rows.astype(np.uint64),
        confidence=np.concatenate(confidence),
        probabilities=np.concatenate(soft) if soft else None,
        tally=[_count(label, requested, rows, seen) for label, _ in enumerate(names)],
    )


def _count(label: int, labels: NDArray[np.int64], kept: NDArray[np.int64], rejected: NDArray[np.int64]) -> ClassTally:
    """Counts of a class from the rows kept and the pairs (label, class that the teacher saw) of the others."""
    as_, counts = np.unique(rejected[rejected[:, 0] == label, 1], return_counts=True)
    return ClassTally(
        drawn=int((labels == label).sum()),
        accepted=int((labels[kept] == label).sum()),
        backfilled=0,
        rejected_as=dict(zip(as_.tolist(), counts.tolist(), strict=True)),
    )
