"""Datasets on disk, and samples in memory."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import _arrays, _gafi
from ._tally import ClassTally


Split = Literal["train", "val", "screen", "test", "synthetic"]
Format = Literal["image-folder", "parquet", "webdataset", "npz", "cifar-bin"]


@dataclass(repr=False)
class Samples:
    """Labelled images in memory.

    Attributes:
        images: Pixels, uint8 (n, c, h, w).
        labels: Classes, int64 (n).
        classes: Names of the classes.
        ids: Identifier of each sample, uint64 (n): its index within its class, or its row before filtering.
        confidence: The teacher's probability of the label, float32 (n); None without a teacher.
        probabilities: Soft labels, the teacher's probability of every class, float32 (n, classes); None unless `keep_probabilities`.
        tally: Counts of each class. Those of a source count everything since its first sample.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: list[str]
    ids: NDArray[np.uint64] | None = None
    confidence: NDArray[np.float32] | None = None
    probabilities: NDArray[np.float32] | None = None
    tally: list[ClassTally] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Samples({len(self)} images {self.images.shape[1:]} of {len(self.classes)} classes)"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[NDArray[np.uint8], int]:
        """An image (c, h, w) and its label."""
        return self.images[row], int(self.labels[row])

    def save(self, path: "str | os.PathLike[str]", *, split: Split = "synthetic", force: bool = False) -> "Dataset":
        """Writes them as a dataset artifact; see `Dataset.write`."""
        return Dataset.write(
            path,
            self.images,
            self.labels,
            classes=self.classes,
            split=split,
            ids=self.ids,
            confidence=self.confidence,
            probabilities=self.probabilities,
            force=force,
        )


class Dataset:
    """A dataset artifact: labelled uint8 images on disk, of which only the labels are in memory.

    `dataset[7]` is an image (c, h, w) with its label, `dataset[10:20]` a pair of arrays, so it serves
    `torch.utils.data.DataLoader` as it is; `torch()` is a `torch.utils.data.Dataset` with tensors.
    """

    def __init__(self, path: "str | os.PathLike[str]") -> None:
        """Opens the artifact at `path`, and checks its files against its manifest."""
        self.path = os.fspath(path)
        self._native = _gafi.Dataset.open(self.path)
        self._labels = self._native.labels()

    @classmethod
    def write(
        cls,
        path: "str | os.PathLike[str]",
        images: Any,
        labels: Any,
        *,
        classes: int | Sequence[str],
        split: Split = "synthetic",
        ids: Any = None,
        confidence: Any = None,
        probabilities: Any = None,
        range: tuple[float, float] | None = None,
        force: bool = False,
    ) -> "Dataset":
        """Writes arrays as a dataset artifact and opens it.

        `images` are uint8 (n, c, h, w), or floats with `range`; `labels` are integers (n) below the number of classes. Every
        class needs an image. `split` is "train", "val", "test" or "synthetic". An equal dataset that exists is reused; anything
        else at `path` is an error, unless `force` replaces it.
        """
        pixels = _arrays.images(images, "images", range)
        names = _arrays.class_names(classes)
        numbers = _arrays.labels(labels, len(pixels))
        optional = (
            None if ids is None else np.ascontiguousarray(_arrays.array(ids), np.uint64),
            None if confidence is None else np.ascontiguousarray(_arrays.array(confidence), np.float32),
            None if probabilities is None else _arrays.probabilities(probabilities, len(pixels), len(names)),
        )
        content = hashlib.blake2b(digest_size=20)
        for column in (pixels, numbers, *optional):
            content.update(repr(None if column is None else column.shape).encode())
            if column is not None:
                content.update(column.data)
        _gafi.save_arrays(os.fspath(path), pixels, numbers, optional, names, split, content.hexdigest(), force)
        return cls(path)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Classes, int64 (n)."""
        return self._labels

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape of an image: channels, height, width."""
        return self._native.image

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return self._native.classes

    @property
    def split(self) -> str:
        """The split: "train", "val", "screen", "test" or "synthetic"."""
        return self._native.split

    @property
    def manifest(self) -> dict[str, Any]:
        """Its manifest: what made it, from what, with which configuration, and the hash of each file."""
        manifest: dict[str, Any] = json.loads(self._native.manifest)
        return manifest

    def __len__(self) -> int:
        return len(self._native)

    def __getitem__(self, row: int | slice | Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[np.uint8], Any]:
        """An image and its label, or images and labels of several rows."""
        if isinstance(row, (int, np.integer)):
            row = int(row) + len(self) if row < 0 else int(row)
            if not 0 <= row < len(self):
                raise IndexError(f"row {row}: expected a row below {len(self)}")
            return self._native.images([row])[0], int(self.labels[row])
        rows = np.arange(len(self))[row]
        return self._native.images(rows.tolist()), self.labels[rows]

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], int]]:
        return (self[row] for row in range(len(self)))

    @property
    def images(self) -> NDArray[np.uint8]:
        """All pixels, uint8 (n, c, h, w), read from disk at each call."""
        return self[:][0]

    def load(self) -> Samples:
        """Reads everything into memory, with ids and the teacher's confidence and probabilities if there are any."""
        batches = self._native.batches()

        def column(name: str) -> Any:
            parts = [batch[name] for batch in batches]
            return None if any(part is None for part in parts) else np.concatenate(parts)

        names = ("images", "labels", "ids", "confidence", "probabilities")
        return Samples(classes=self.classes, **{name: column(name) for name in names})

    def torch(self, transform: Callable[[Any], Any] | None = None) -> Any:
        """A `torch.utils.data.Dataset` of uint8 tensors (c, h, w) and labels; `transform` is applied to each image."""
        import torch

        dataset = self

        class Images(torch.utils.data.Dataset[tuple[Any, int]]):
            def __len__(self) -> int:
                return len(dataset)

            def __getitem__(self, row: int) -> tuple[Any, int]:
                image, label = dataset[row]
                tensor = torch.from_numpy(image)
                return (tensor if transform is None else transform(tensor)), label

        return Images()

    def export(self, path: "str | os.PathLike[str]", format: Format = "parquet", *, force: bool = False) -> None:
        """Exports the dataset for other programs, in a folder with a dataset card.

        `datasets.load_dataset(path)` reads "parquet", torchvision's `ImageFolder` reads "image-folder".
        """
        from ._runs import call

        call("export", self.path, "--format", format, "--out", os.fspath(path), *(["--force"] if force else []))

    def __reduce__(self) -> tuple[Any, ...]:
        # The workers of a DataLoader open the files again.
        return Dataset, (self.path,)

    def __repr__(self) -> str:
        return f"Dataset({self.path!r}: {len(self)} images {self.image} of {len(self.classes)} classes, split {self.split})"
