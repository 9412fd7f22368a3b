"""Sources of samples: the Expansion Trick, Dynamic Sample Filtering and Dynamic Dataset Recycle."""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _gafi
from ._data import Dataset, Samples
from ._models import AnyGenerator, Generator, Teacher, native_generator, native_teacher
from ._tally import ClassTally, from_native


class Source:
    """An endless source of samples by class; `gafi.expand` makes one.

    A sample depends on seed, class and index alone, as long as an image of the generator does not depend on its batch: taking 2
    and then 3 gives the samples of taking 5. `filter` and `gafi.recycle` take a source over, which cannot be used by itself afterwards.
    """

    def __init__(self, native: "_gafi.Source") -> None:
        self._native = native

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape of an image: channels, height, width."""
        return self._native.image

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return self._native.classes

    @property
    def tally(self) -> list[ClassTally]:
        """Counts of each class so far."""
        return from_native(self._native.tally())

    def filter(
        self,
        teacher: Teacher,
        *,
        threshold: float = 0.0,
        max_attempts: int = 100,
        on_exhausted: str = "error",
        keep_probabilities: bool = False,
    ) -> "Source":
        """The samples that `teacher` recognises: the class is its most likely one, with a probability above `threshold`.

        Rejected samples are replaced by further ones. `max_attempts` is how many samples of a class are drawn for each one kept, on
        average, before the class is exhausted; 0 for no bound. Then `on_exhausted="error"` raises `ExhaustedError`, and "backfill"
        fills the class with rejected samples, which the tally counts. The teacher judges 64 images at a time.
        """
        rule = {
            "threshold": float(threshold),
            "max_attempts": int(max_attempts),
            "on_exhausted": on_exhausted,
            "keep_probabilities": bool(keep_probabilities),
        }
        native = native_teacher(teacher, self.image, len(self.classes))
        return Source(self._native.filtered(native, json.dumps(rule)))

    def take(self, per_class: int) -> Samples:
        """The next `per_class` samples of each class, class after class."""
        return self._samples(self._native.take(per_class))

    def pull(self, label: int, n: int) -> Samples | None:
        """Up to `n` further samples of a class; None when the class has ended for good."""
        columns = self._native.pull(label, n)
        return None if columns is None else self._samples(columns)

    def _samples(self, columns: dict[str, Any]) -> Samples:
        return Samples(classes=self.classes, tally=self.tally, **columns)

    def save(self, path: "str | os.PathLike[str]", per_class: int, *, identity: str | None = None, force: bool = False) -> Dataset:
        """Writes the next `per_class` samples of each class as a dataset artifact, in bounded memory, and opens it.

        `identity` names generator, teacher and settings, such as a hash of the weights and the arguments. With it, an interrupted
        call resumes after the last complete shard when it is repeated, and a finished dataset is reused. Without it, GaFi cannot know
        whether two Python functions are the same, so an interrupted call starts over and an existing dataset is an error, unless
        `force` replaces it.
        """
        self._native.save(os.fspath(path), per_class, identity or f"once {uuid.uuid4().hex}", force)
        return Dataset(path)


def expand(
    generator: AnyGenerator,
    std: float | tuple[float, float] = 1.0,
    *,
    classes: int | Sequence[str] | None = None,
    latent_dim: int | None = None,
    image: Sequence[int] | None = None,
    range: tuple[float, float] | None = None,
    checkpoint: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> Source:
    """Samples of a generator with latents from N(0, std² I): the Expansion Trick for std above 1.

    `generator` is a function of float32 latents (n, latent_dim) and int64 labels (n), a `torch.nn.Module`, a `gafi.Generator`, or the
    path of a generator artifact. A function needs `classes` (a number or names) and `latent_dim`, and `range` if it returns floats.
    Without `latent_dim` it draws its own noise, as diffusion models do, from the uint64 seeds (n) that it gets in place of latents; `std`
    has to be 1 then. It is called once for the shape of its images, unless `image` (c, h, w) is given. `std` is a number, or a range (lo, hi) from
    which each sample draws its own. `batch_size` samples are generated at a time, which changes no result of a generator whose
    images do not depend on their batch.
    """
    low, high = (float(std), float(std)) if isinstance(std, (int, float)) else map(float, std)
    own_noise = latent_dim is None and callable(generator) and not isinstance(generator, Generator)
    if own_noise and (low, high) != (1.0, 1.0):
        raise ValueError(f"std={std}: a generator without `latent_dim` draws its own noise, so std has to be 1")
    native = native_generator(generator, classes=classes, latent_dim=latent_dim, image=image, range=range, checkpoint=checkpoint)
    return Source(_gafi.Source.expanded(native, (low, high), seed, batch_size))


@dataclass
class Epoch:
    """The training set of an epoch; its rows are in order of class."""

    epoch: int
    """From 0."""
    images: NDArray[np.uint8]
    """Pixels, uint8 (classes * per_class, c, h, w)."""
    labels: NDArray[np.int64]
    """Classes, int64 (classes * per_class)."""
    probabilities: NDArray[np.float32] | None
    """Soft labels, float32 (rows, classes), of a source with `keep_probabilities`."""
    renewed: int
    """How many images are new."""
    tally: list[ClassTally]
    """Counts of each class, of all samples so far."""


def recycle(
    source: Source, per_class: int, epochs: int, *, period: int | None = 1, factor: float = 1.0, seed: int = 0
) -> Iterator[Epoch]:
    """Dynamic Dataset Recycle: a set of `per_class` samples of each class for each epoch of a training loop.

    Every `period` epochs a share `factor` in (0, 1] of each class is replaced by the next samples of `source`; `period=None` keeps the
    set. It takes the source over.

        for epoch in gafi.recycle(source, per_class=5000, epochs=100, period=1, factor=1.0):
            train_one_epoch(student, epoch.images, epoch.labels)
    """
    renewal = None if period is None else (period, float(factor))
    native = _gafi.Recycled(source._native, per_class, renewal, seed)
    return (Epoch(epoch=epoch, **native.epoch(epoch), tally=from_native(native.tally())) for epoch in range(epochs))
