"""Dynamic Sample Filtering of samples that exist already."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _arrays, _gafi
from ._data import Dataset, Samples
from ._models import Teacher, scores_of
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

    `images` are uint8 (n, c, h, w), or floats with `range`, and `labels` integers (n); or a `Dataset` or its path, which has its own
    labels. `threshold` is in [0, 1). The result keeps their order; its `ids` are the rows that were kept, and its `tally` counts
    each class. `batch_size` images are judged at a time, which changes no result of a teacher that judges each on its own.

    To fill a class up again, filter a source instead: `gafi.expand(generator, ...).filter(teacher, threshold=...)`.
    """
    if teacher is None:
        raise TypeError("filter needs a teacher")
    if isinstance(images, (str, os.PathLike)):
        images = Dataset(images)
    if isinstance(images, Dataset):
        if labels is not None:
            raise TypeError("labels: a dataset has its own; leave this out")
        dataset, requested = images, images.labels
        classes = dataset.classes if classes is None else classes

        def read(rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
            return dataset[rows][0]
    else:
        pixels = _arrays.array(images)
        requested = _arrays.labels(labels, len(pixels))

        def read(rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
            return _arrays.images(pixels[rows], "images", range)

    if not 0.0 <= threshold < 1.0:
        raise ValueError(f"threshold={threshold}: expected at least 0 and below 1")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1")
    n_classes = None if classes is None else len(_arrays.class_names(classes))
    score = scores_of(teacher, n_classes)
    kept, rejected = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int64)]
    confidence, soft = [np.zeros(0, np.float32)], []
    for start in np.arange(0, len(requested), batch_size).tolist():
        block = slice(start, start + batch_size)
        probabilities = score(read(block))
        if n_classes is not None and probabilities.shape[1] != n_classes:
            raise ValueError(f"teacher: expected one of {n_classes} classes, found {probabilities.shape[1]}")
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
