"""Generators and teachers: artifacts, functions and networks."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _arrays, _gafi
from ._errors import UsageError

Path = str | os.PathLike[str]

# Grey levels by which an image may differ, on average, between a batch and on its own: rounding on a GPU.
BATCH_NOISE = 1.0


def folder(path: Path, what: str, instead: str) -> str:
    """The path of an artifact.

    Raises UsageError for a file, which is what networks of other programs are.
    """
    if os.path.isfile(path):
        raise UsageError(f"{os.fspath(path)} is a file, but {what} of GaFi is a folder with a manifest.json; {instead}")
    return os.fspath(path)


class Classifier:
    """The classifier of an artifact. Calling it gives probabilities: `Classifier("runs/a/teacher")(images)`."""

    def __init__(self, path: Path, *, device: str = "auto") -> None:
        """Opens the artifact at `path` on `device`: "auto", "cpu" or "cuda:0"."""
        path = folder(path, "a classifier", "load it yourself, and pass a function of uint8 images")
        self._native = _gafi.Classifier.open(path, device)

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape of its images: channels, height, width."""
        return self._native.image

    @property
    def classes(self) -> list[str]:
        """Names of its classes."""
        return self._native.classes or []

    def __call__(self, images: Any) -> NDArray[np.float32]:
        """Probabilities, float32 (n, classes), of uint8 images (n, c, h, w)."""
        return self._native.score(_arrays.images(images, "images"))


class Generator:
    """The generator of an artifact. Calling it gives images: `Generator("runs/a/generator")(latents, labels)`."""

    def __init__(self, path: Path, *, checkpoint: int | None = None, device: str = "auto") -> None:
        """Opens the artifact at `path` at a checkpoint, by default the last, on `device`: "auto", "cpu" or "cuda:0"."""
        path = folder(path, "a generator", "load it yourself, and pass a function of latents and labels")
        self._native = _gafi.Generator.open(path, checkpoint, device)
        self._checkpoint = checkpoint

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape of its images: channels, height, width."""
        return self._native.image

    @property
    def classes(self) -> list[str]:
        """Names of its classes."""
        return self._native.classes

    @property
    def latent_dim(self) -> int:
        """Length of a latent."""
        return self._native.latent_dim

    def __call__(self, latents: Any, labels: Any) -> NDArray[np.uint8]:
        """uint8 images (n, c, h, w) of latents (n, latent_dim) and labels (n)."""
        latents = np.ascontiguousarray(_arrays.array(latents), dtype=np.float32)
        return self._native.generate(latents, _arrays.labels(labels, len(latents)))


Teacher = Classifier | Callable[..., Any] | Path
AnyGenerator = Generator | Callable[..., Any] | Path


def _run(network: Any, *arrays: NDArray[Any]) -> Any:
    """Calls a function with arrays, or a network of PyTorch with tensors, without gradients."""
    if not _arrays.is_module(network):
        return network(*arrays)
    import torch

    with torch.inference_mode():
        return network(*(torch.from_numpy(array) for array in arrays))


def scores_of(teacher: Teacher, classes: int | None = None) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """A function from uint8 images to checked probabilities."""
    if isinstance(teacher, (str, os.PathLike)):
        teacher = Classifier(teacher)
    if isinstance(teacher, Classifier):
        return teacher._native.score
    return lambda images: _arrays.probabilities(_run(teacher, images), len(images), classes)


def native_teacher(teacher: Teacher, image: tuple[int, int, int], classes: int) -> "_gafi.Classifier":
    """A teacher for a source of images of this shape and number of classes."""
    if isinstance(teacher, (str, os.PathLike)):
        teacher = Classifier(teacher)
    if isinstance(teacher, Classifier):
        return teacher._native
    return _gafi.Classifier.function(scores_of(teacher, classes), image, classes)


def native_generator(
    generator: AnyGenerator,
    *,
    classes: int | Sequence[str] | None,
    latent_dim: int | None,
    image: Sequence[int] | None,
    range: tuple[float, float] | None,
    checkpoint: int | None,
) -> "_gafi.Generator":
    """The native generator of an artifact or a function. A function is called for the shape of its images, and to see that they do
    not depend on their batch."""
    if isinstance(generator, (str, os.PathLike, Generator)):
        given = {"classes": classes, "latent_dim": latent_dim, "image": image, "range": range}
        if isinstance(generator, Generator):
            given["checkpoint"] = checkpoint
        if unused := [name for name, value in given.items() if value is not None]:
            raise TypeError(f"{', '.join(unused)}: the generator has its own; leave this out")
        opened = generator if isinstance(generator, Generator) else Generator(generator, checkpoint=checkpoint)
        return opened._native
    if checkpoint is not None:
        raise TypeError("checkpoint: only an artifact has checkpoints; leave it out for a function")
    if classes is None:
        raise TypeError("a generator that is a function needs `classes`")

    def generate(drawn: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        images = _arrays.images(_run(generator, drawn, labels), "generator", range)
        expected = (len(labels), *shape)
        if images.shape != expected:
            raise UsageError(f"generator: expected images {expected}, found {images.shape}")
        return images

    names = _arrays.class_names(classes)
    if _arrays.is_module(generator) and getattr(generator, "training", False):
        raise UsageError("generator: it is in training mode, so an image may depend on its batch; call its `eval()` first")
    shape = (0, 0, 0)
    if image is None or latent_dim is not None:
        first = _probe(generator, latent_dim, [0, len(names) - 1], range)
        _, channels, height, width = first.shape
        if image is not None and (channels, height, width) != tuple(image):
            raise UsageError(f"generator: expected images {tuple(image)}, found {first.shape[1:]}")
        shape = channels, height, width
        alone = _probe(generator, latent_dim, [0], range)
        change = float(np.abs(first[0].astype(np.float32) - alone[0].astype(np.float32)).mean())
        if change > BATCH_NOISE:
            raise UsageError(
                f"generator: an image changes by {change:.1f} of 255 grey levels on average with the batch that it is in; "
                "if it is a network of PyTorch, call its `eval()`"
            )
    else:
        channels, height, width = map(int, image)
        shape = channels, height, width
    return _gafi.Generator.function(generate, shape, names, latent_dim or 0)


def _probe(
    generator: Callable[..., Any], latent_dim: int | None, labels: list[int], range: tuple[float, float] | None
) -> NDArray[np.uint8]:
    """Images of fixed latents or seeds; the first is always the same."""
    random = np.random.default_rng(0)
    n = len(labels)
    drawn: NDArray[Any] = random.integers(0, 2**63, 2, dtype=np.uint64)[:n]
    if latent_dim is not None:
        drawn = random.standard_normal((2, latent_dim), dtype=np.float32)[:n]
    try:
        images = _arrays.images(_run(generator, drawn, np.array(labels, np.int64)), "generator", range)
    except Exception as error:
        # Python 3.10 has no notes.
        if latent_dim is None and hasattr(error, "add_note"):
            error.add_note("Without `latent_dim`, GaFi calls a generator with seeds, uint64 (n), in place of latents.")
        raise
    if len(images) != n:
        raise UsageError(f"generator: expected {n} images, found {len(images)}")
    return images
