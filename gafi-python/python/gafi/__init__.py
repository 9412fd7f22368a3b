"""Turns a generator of labelled images into a training set for classifiers (GaFi, arXiv 2305.10118).

    import gafi

    source = gafi.expand(generator, std=1.3, classes=10, latent_dim=128, range=(-1, 1))  # the Expansion Trick
    kept = source.filter(teacher, threshold=0.9)  # Dynamic Sample Filtering
    samples = kept.take(per_class=5000)  # images, labels, confidence, tally
    samples.save("samples")  # a dataset that every tool of GaFi reads

`generator` and `teacher` are functions of arrays, networks of PyTorch, or paths of artifacts that `gafi-cli` made:

- a generator takes float32 latents (n, latent_dim) and int64 labels (n), and returns images (n, c, h, w): uint8, or floats
  with the values of black and white given as `range=(-1, 1)`; one that draws its own noise takes seeds, uint64 (n);
- a teacher takes uint8 images (n, c, h, w) and returns float32 probabilities (n, classes) that sum to 1.

Functions get NumPy arrays and may return NumPy arrays or tensors; a `torch.nn.Module` gets tensors on the CPU. For samples that
exist already, `gafi.filter(images, labels, teacher, threshold=0.9)` keeps those that a teacher recognises.

For the whole method, from real images to a results table, call `gafi.pipeline`.
"""

import os as _os
from importlib.metadata import version as _version

# Read when the native module is loaded; neither changes a result. See gafi-cli/src/main.rs.
_os.environ.setdefault("MIMALLOC_PURGE_DELAY", "-1")
_os.environ.setdefault("CANDLE_NUM_THREADS", "1")

from ._data import Dataset, Samples
from ._errors import Error, ExhaustedError, LockedError, UsageError
from ._filter import filter
from ._models import Classifier, Generator
from ._runs import Report, call, pipeline
from ._sources import Epoch, Source, expand, recycle
from ._tally import ClassTally

__version__ = _version("gafi")

__all__ = [
    "ClassTally",
    "Classifier",
    "Dataset",
    "Epoch",
    "Error",
    "ExhaustedError",
    "Generator",
    "LockedError",
    "Report",
    "Samples",
    "Source",
    "UsageError",
    "call",
    "expand",
    "filter",
    "pipeline",
    "recycle",
]
