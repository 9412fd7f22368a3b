"""Toy generators and teachers, and a run of the pipeline on tiny built-in images."""

import numpy as np
import pytest

import gafi

SHAPE = (1, 8, 8)
CLASSES = ["dark", "light"]


def generate(latents, labels):
    """Images whose brightness shows their class, and whose noise shows their latent."""
    light = np.where(labels == 1, 170.0, 85.0)[:, None] + 30.0 * np.tile(latents, 4)
    return np.clip(light, 0, 255).astype(np.uint8).reshape(-1, *SHAPE)


def score(images):
    """Probabilities of dark and light by mean brightness."""
    light = images.reshape(len(images), -1).mean(axis=1, dtype=np.float64) / 255.0
    return np.stack([1.0 - light, light], axis=1).astype(np.float32)


@pytest.fixture
def source():
    """Samples of the toy generator, wide enough that some look like the other class."""
    return gafi.expand(generate, std=4.0, classes=CLASSES, latent_dim=16, seed=3)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run of preset smoke, and its report."""
    out = tmp_path_factory.mktemp("run") / "smoke"
    return out, gafi.pipeline("shapes", out, preset="smoke", jobs=2)


@pytest.fixture(scope="session")
def artifacts(run):
    """Folders of the run's artifacts, by the kind and stage in their manifest."""
    import json

    found = {}
    for manifest in sorted(run[0].glob("*/manifest.json")):
        stage = json.loads(manifest.read_text())["made_by"]["stage"]
        found.setdefault(stage, manifest.parent)
    return found


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """The artifact of a classifier that was trained on images of the toy generator, and so doubts the wide ones."""
    folder = tmp_path_factory.mktemp("teacher")
    source = gafi.expand(generate, std=2.0, classes=CLASSES, latent_dim=16, seed=11)
    source.take(200).save(folder / "train", split="train")
    source.take(50).save(folder / "val", split="val")
    small = ["--epochs", 2, "--set", "classifier.architecture.width=4", "--set", "classifier.batch=32"]
    gafi.call("train-classifier", "--train", folder / "train", "--val", folder / "val", *small, "--out", folder / "teacher")
    return folder / "teacher"
