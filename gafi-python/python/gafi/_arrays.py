"""What users have, as the arrays that the native module takes."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._errors import UsageError


def is_tensor(value: Any) -> bool:
    """Whether it is a tensor of PyTorch, which is never imported here."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_module(value: Any) -> bool:
    """Whether it is a network of PyTorch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def array(value: Any) -> NDArray[Any]:
    """A NumPy array of an array or tensor; a tensor on the CPU shares its memory."""
    if is_tensor(value):
        value = value.detach()
        if value.device.type != "cpu":
            value = value.cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
        value = value.numpy()
    return np.asarray(value)


def images(value: Any, what: str, range: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """uint8 pixels (n, c, h, w).

    Floats need `range`, the values of black and white, and are rounded to the nearest of 256 values. Values outside it are clamped; if
    they are more than a tenth, `range` is taken to be wrong.
    """
    found = array(value)
    if found.ndim != 4:
        raise UsageError(f"{what}: expected an array (n, c, h, w), found {found.shape}")
    if found.dtype == np.uint8:
        if range is not None:
            raise UsageError(f"{what}: found uint8 pixels, so `range` has to be left out")
        return np.ascontiguousarray(found)
    if not np.issubdtype(found.dtype, np.floating):
        raise UsageError(f"{what}: expected uint8 or floats, found {found.dtype}")
    if range is None:
        lowest, highest = (float(found.min()), float(found.max())) if found.size else (0.0, 0.0)
        raise UsageError(
            f"{what}: found floats from {lowest:.3g} to {highest:.3g}; say which values are black and white, such as range=(-1, 1)"
        )
    black, white = range
    if not white > black:
        raise UsageError(f"range=({black}, {white}): expected (black, white) with black below white")
    if not np.isfinite(found).all():
        raise UsageError(f"{what}: found values that are not finite")
    slack = 1e-3 * (white - black)
    outside = np.count_nonzero((found < black - slack) | (found > white + slack))
    if outside > 0.1 * found.size:
        raise UsageError(
            f"{what}: found values from {found.min():.3g} to {found.max():.3g}, of which {outside / found.size:.0%} lie outside "
            f"range=({black}, {white}); either `range` is wrong, or the last layer is unbounded: then clamp in your function"
        )
    scaled = (found.astype(np.float32) - np.float32(black)) * np.float32(255.0 / (white - black))
    return np.ascontiguousarray(np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8))


def labels(value: Any, n: int | None = None) -> NDArray[np.int64]:
    """int64 labels (n)."""
    found = array(value)
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise UsageError(f"labels: expected integers (n), found {found.dtype} {found.shape}")
    if n is not None and len(found) != n:
        raise UsageError(f"labels: expected one for each of {n} images, found {len(found)}")
    return np.ascontiguousarray(found.astype(np.int64))


def probabilities(value: Any, n: int, classes: int | None = None) -> NDArray[np.float32]:
    """float32 probabilities (n, classes); every row sums to 1 within 1 %."""
    found = array(value)
    expected = classes if classes is not None else "classes"
    if found.ndim != 2 or len(found) != n or (classes is not None and found.shape[1] != classes):
        raise UsageError(f"teacher: expected probabilities ({n}, {expected}), found {found.shape}")
    found = np.ascontiguousarray(found, dtype=np.float32)
    sums = found.sum(axis=1)
    wrong = np.flatnonzero(~(np.abs(sums - 1.0) <= 0.01))
    if len(wrong):
        row = int(wrong[0])
        raise UsageError(
            f"teacher: expected probabilities that sum to 1, found {sums[row]:.4g} in row {row}; logits need a softmax"
        )
    return found


def class_names(classes: int | Sequence[str]) -> list[str]:
    """Names of classes; a number stands for "0", "1" and so on."""
    if isinstance(classes, (int, np.integer)):
        return [str(label) for label in range(int(classes))]
    return [str(name) for name in classes]
