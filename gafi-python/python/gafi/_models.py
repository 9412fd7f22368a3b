"""Generators and teachers: artifacts, functions and networks."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _arrays, _gafi

Path = str | os.PathLike[str]


class Classifier:
    """The classifier of an artifact. Calling it gives probabilities: `Classifier("runs/a/teacher")(images)`."""

    def __init__(self, path: Path, *, device: str = "auto") -> None:
        """Opens the artifact at `path` on `device`: "auto", "cpu" or "cuda:0"."""
        self._native = _gafi.Classifier.open(os.fspath(path), device)

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
        self._native = _gafi.Generator.open(os.fspath(path), checkpoint, device)

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
    """The native generator of an artifact or a function. A function is called once, for the shape of its images."""
    if isinstance(generator, (str, os.PathLike)):
        given = {"classes": classes, "latent_dim": latent_dim, "image": image, "range": range}
        if unused := [name for name, value in given.items() if value is not None]:
            raise TypeError(f"{', '.join(unused)}: an artifact has its own; leave this out")
        return _gafi.Generator.open(os.fspath(generator), checkpoint)
    if isinstance(generator, Generator):
        return generator._native
    if checkpoint is not None:
        raise TypeError("checkpoint: only an artifact has checkpoints")
    if classes is None:
        raise TypeError("a generator that is a function needs `classes`")

    def generate(drawn: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        images = _arrays.images(_run(generator, drawn, labels), "generator", range)
        expected = (len(labels), *shape)
        if images.shape != expected:
            raise ValueError(f"generator: expected images {expected}, found {images.shape}")
        return images

    if image is None:
        drawn: NDArray[Any] = np.zeros(1, np.uint64) if latent_dim is None else np.zeros((1, latent_dim), np.float32)
        _, *image = _arrays.images(_run(generator, drawn, np.zeros(1, np.int64)), "generator", range).shape
    channels, height, width = map(int, image)
    shape = channels, height, width
    return _gafi.Generator.function(generate, shape, _arrays.class_names(classes), latent_dim or 0)
