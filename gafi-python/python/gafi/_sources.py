"""Sources of samples: the Expansion Trick, Dynamic Sample Filtering and Dynamic Dataset Recycle."""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import _gafi
from ._data import Dataset, Samples
from ._errors import UsageError
from ._models import AnyGenerator, Generator, Teacher, native_generator, native_teacher
from ._tally import ClassTally, from_native


class Source:
    """An endless source of samples by class; `gafi.expand` makes one.

    A sample depends on seed, class and index alone, as long as an image of the generator does not depend on its batch: taking 2
    and then 3 gives the samples of taking 5. `filter` and `gafi.recycle` consume the source; using it again raises an error.
    """

    def __init__(self, native: "_gafi.Source", settings: dict[str, Any]) -> None:
        self._native = native
        self._settings = settings

    def __repr__(self) -> str:
        return f"Source(images {self.image} of {len(self.classes)} classes, {self._settings})"

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
        """Counts of each class since the first sample."""
        return from_native(self._native.tally())

    def filter(
        self,
        teacher: Teacher,
        *,
        threshold: float = 0.0,
        max_attempts: int = 100,
        on_exhausted: Literal["error", "backfill"] = "error",
        keep_probabilities: bool = False,
    ) -> "Source":
        """The samples that `teacher` recognises; rejected ones are replaced by further ones.

        Args:
            teacher: A function from uint8 images (n, c, h, w) to probabilities (n, classes), a `torch.nn.Module`, a `Classifier`, or the
                path of a classifier artifact. It judges 64 images at a time. An artifact's classes must have the source's names.
            threshold: In [0, 1). A sample passes if its class is the teacher's most likely one, with a probability above it.
            max_attempts: Samples of a class drawn for each one kept, on average, before the class is exhausted; 0 for no bound.
            on_exhausted: What happens then: "error" raises `ExhaustedError`, "backfill" fills the class with rejected samples.
            keep_probabilities: Whether samples have soft labels.
        """
        if on_exhausted not in ("error", "backfill"):
            raise UsageError(f'on_exhausted={on_exhausted!r}: expected "error" or "backfill"')
        rule = {
            "threshold": float(threshold),
            "max_attempts": int(max_attempts),
            "on_exhausted": on_exhausted,
            "keep_probabilities": bool(keep_probabilities),
        }
        native = native_teacher(teacher, self.image, len(self.classes))
        settings = {**self._settings, "filters": [*self._settings["filters"], {**rule, "teacher": native.id}]}
        return Source(self._native.filtered(native, json.dumps(rule)), settings)

    def take(self, per_class: int) -> Samples:
        """The next `per_class` samples of each class, class after class; another call continues from there."""
        return self._samples(self._native.take(per_class))

    def pull(self, label: int, n: int) -> Samples | None:
        """Up to `n` further samples of a class; None when the class is exhausted."""
        columns = self._native.pull(label, n)
        return None if columns is None else self._samples(columns)

    def _samples(self, columns: dict[str, Any]) -> Samples:
        return Samples(classes=self.classes, tally=self.tally, **columns)

    def save(self, path: "str | os.PathLike[str]", per_class: int, *, identity: str | None = None, force: bool = False) -> Dataset:
        """Writes the next `per_class` samples of each class as a dataset artifact, in bounded memory, and opens it.

        GaFi knows the settings of a source, but not whether two Python functions are the same: `identity` says that, such as a hash of the
        weights. With it, an interrupted call resumes after the last complete shard when it is repeated, and a finished dataset is reused.
        Without it, an interrupted call starts over, and an existing dataset is an error unless `force` replaces it. Sources of
        artifacts alone need none. The manifest records settings and identity.
        """
        parts = [self._settings["generator"], *(rule["teacher"] for rule in self._settings["filters"])]
        settings = {
            **self._settings,
            "identity": identity or (f"once {uuid.uuid4().hex}" if None in parts else None),
            # Samples taken before are not in the dataset.
            "after": [count.drawn for count in self.tally],
        }
        self._native.save(os.fspath(path), per_class, json.dumps(settings), force)
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

    Args:
        generator: A function of float32 latents (n, latent_dim) and int64 labels (n) that returns images (n, c, h, w), a
            `torch.nn.Module`, a `Generator`, or the path of a generator artifact. GaFi first calls a function on two latents and
            on one, to learn the shape of its images and to see that they do not depend on their batch.
        std: Standard deviation of the latents, or a range (lo, hi) from which each sample draws its own.
        classes: Names of the classes, or their number. A function needs it.
        latent_dim: Length of a latent. Without it, a function draws its own noise, as diffusion models do: it gets seeds, uint64 (n), in
            place of latents, and `std` has to be 1.
        image: Shape of an image (c, h, w), if it is known. A function without latents is then not called beforehand.
        range: The values of black and white, for a function that returns floats. Values outside it are clamped.
        checkpoint: Checkpoint of an artifact, by default the last.
        seed: Seed of all latents.
        batch_size: Samples generated at a time. It changes no result of a generator whose images do not depend on their batch.

    Returns:
        A source; nothing is generated before samples are taken from it.
    """
    if isinstance(std, str):
        raise TypeError(f"std={std!r}: expected a number or a range (lo, hi)")
    low, high = (float(std), float(std)) if isinstance(std, (int, float)) else map(float, std)
    own_noise = latent_dim is None and callable(generator) and not isinstance(generator, Generator)
    if own_noise and (low, high) != (1.0, 1.0):
        raise UsageError(f"std={std}: a generator without `latent_dim` draws its own noise, so std has to be 1")
    native = native_generator(generator, classes=classes, latent_dim=latent_dim, image=image, range=range, checkpoint=checkpoint)
    settings = {
        "generator": native.id,
        "checkpoint": generator._checkpoint if isinstance(generator, Generator) else checkpoint,
        "classes": native.classes,
        "range": range,
        "std": low if low == high else [low, high],
        "seed": seed,
        "filters": [],
    }
    return Source(_gafi.Source.expanded(native, (low, high), seed, batch_size), settings)


@dataclass
class Epoch:
    """The training set of an epoch; its rows are in order of class.

    Attributes:
        epoch: From 0.
        images: Pixels, uint8 (classes * per_class, c, h, w).
        labels: Classes, int64 (classes * per_class).
        probabilities: Soft labels, float32 (rows, classes), of a source with `keep_probabilities`.
        renewed: How many images are new in this epoch.
        tally: Counts of each class since the first epoch.
    """

    epoch: int
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32] | None
    renewed: int
    tally: list[ClassTally]


def recycle(
    source: Source, per_class: int, epochs: int, *, period: int | None = 1, factor: float = 1.0, seed: int = 0
) -> Iterator[Epoch]:
    """Dynamic Dataset Recycle: a set of `per_class` samples of each class for each epoch of a training loop.

    Every `period` epochs a share `factor` in (0, 1] of each class is replaced by the next samples of `source`; `period=None` keeps the
    set. It consumes the source.

        for epoch in gafi.recycle(source, per_class=5000, epochs=100, period=1, factor=1.0):
            train_one_epoch(student, epoch.images, epoch.labels)
    """
    renewal = None if period is None else (period, float(factor))
    native = _gafi.Recycled(source._native, per_class, renewal, seed)
    return (Epoch(epoch=epoch, **native.epoch(epoch), tally=from_native(native.tally())) for epoch in range(epochs))
