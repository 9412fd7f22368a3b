"""Datasets: written, read, exported."""

import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest

import gafi
from conftest import CLASSES, generate, score


def arrays(n=50):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (n, 3, 5, 4), dtype=np.uint8)
    return images, np.arange(n) % 2


def test_what_is_written_is_read(tmp_path):
    images, labels = arrays()
    soft = np.tile(np.float32([0.25, 0.75]), (50, 1))
    ids = np.arange(50)[::-1]
    options = {"classes": CLASSES, "ids": ids, "confidence": soft[:, 1], "probabilities": soft}
    dataset = gafi.Dataset.write(tmp_path / "set", images, labels, split="train", **options)
    assert (len(dataset), dataset.image, dataset.classes, dataset.split) == (50, (3, 5, 4), CLASSES, "train")
    assert (dataset.images == images).all() and (dataset.labels == labels).all()
    image, label = dataset[-1]
    assert (image == images[49]).all() and label == 1
    some, their = dataset[10:20:3]
    assert (some == images[10:20:3]).all() and (their == labels[10:20:3]).all()
    loaded = dataset.load()
    assert (loaded.images == images).all() and (loaded.ids == ids).all()
    assert (loaded.confidence == soft[:, 1]).all() and (loaded.probabilities == soft).all()
    assert dataset.manifest["made_by"]["stage"] == "python"
    with pytest.raises(IndexError):
        dataset[50]


def test_an_equal_dataset_is_reused_and_another_is_refused(tmp_path):
    images, labels = arrays()
    write = lambda images, **more: gafi.Dataset.write(tmp_path / "set", images, labels, classes=CLASSES, **more)
    first = write(images)
    changed = os.stat(tmp_path / "set/manifest.json").st_mtime_ns
    assert write(images).manifest == first.manifest
    assert os.stat(tmp_path / "set/manifest.json").st_mtime_ns == changed
    with pytest.raises(gafi.UsageError, match="another"):
        write(255 - images)
    assert (gafi.Dataset(tmp_path / "set").images == images).all()
    assert (write(255 - images, force=True).images == 255 - images).all()


def test_wrong_arrays_are_refused_and_leave_nothing(tmp_path):
    images, labels = arrays()
    write = lambda *args, **more: gafi.Dataset.write(tmp_path / "set", *args, classes=CLASSES, **more)
    for args, message in [
        ((images, labels + 1), r"labels\[1\].*found 2"),
        ((images, labels[:-1]), "50 images, found 49"),
        ((images[:, 0], labels), r"\(n, c, h, w\)"),
        ((images.astype(np.int32), labels), "int32"),
        ((images / 255.0, labels), "range="),
        ((images, labels * 0.5), "integers"),
    ]:
        with pytest.raises(ValueError, match=message):
            write(*args)
    with pytest.raises(ValueError, match="split|variant"):
        write(images, labels, split="holdout")
    with pytest.raises(gafi.Error, match="at least one row"):
        write(images, labels * 0)
    assert not any(tmp_path.iterdir())


def test_a_source_is_saved_as_it_is_taken(tmp_path):
    source = lambda: gafi.expand(generate, std=3.0, classes=CLASSES, latent_dim=16).filter(score)
    saved = source().save(tmp_path / "set", per_class=100).load()
    taken = source().take(100)
    for label in (0, 1):
        assert (saved.images[saved.labels == label] == taken.images[taken.labels == label]).all()
    # Without an identity, GaFi cannot know that these are the same samples.
    with pytest.raises(gafi.UsageError, match="another"):
        source().save(tmp_path / "set", per_class=100)
    later = source()
    later.take(5)
    named = source().save(tmp_path / "named", per_class=10, identity="toy, std 3")
    assert source().save(tmp_path / "named", per_class=10, identity="toy, std 3").manifest == named.manifest
    assert named.manifest["made_by"]["config"]["settings"]["std"] == 3.0
    with pytest.raises(gafi.UsageError, match="another"):
        later.save(tmp_path / "named", per_class=10, identity="toy, std 3")


def test_sources_of_artifacts_identify_themselves(artifacts, tmp_path):
    save = lambda **options: gafi.expand(artifacts["train-gan"], **options).save(tmp_path / "set", per_class=5)
    first = save(std=1.2)
    assert save(std=1.2).manifest == first.manifest
    for other in ({"std": 1.3}, {"std": 1.2, "seed": 1}, {"std": 1.2, "checkpoint": 20}):
        with pytest.raises(gafi.UsageError, match="another"):
            save(**other)
    # A generator that was opened at another checkpoint is another generator.
    earlier = gafi.Generator(artifacts["train-gan"], checkpoint=20)
    with pytest.raises(gafi.UsageError, match="another"):
        gafi.expand(earlier, std=1.2).save(tmp_path / "set", per_class=5)
    with pytest.raises(TypeError, match="checkpoint"):
        gafi.expand(gafi.Generator(artifacts["train-gan"]), checkpoint=20)


def test_datasets_reads_an_export(tmp_path):
    datasets = pytest.importorskip("datasets")
    images, labels = arrays()
    gafi.Dataset.write(tmp_path / "set", images, labels, classes=CLASSES).export(tmp_path / "parquet")
    (rows,) = datasets.load_dataset(str(tmp_path / "parquet"), cache_dir=str(tmp_path / "cache")).values()
    assert rows.features["label"].names == CLASSES
    assert rows["label"][:] == labels.tolist()
    assert (np.asarray(rows[7]["image"]).transpose(2, 0, 1) == images[7]).all()


def test_torch_reads_a_dataset(tmp_path):
    torch = pytest.importorskip("torch")
    images, labels = arrays()
    dataset = gafi.Dataset.write(tmp_path / "set", torch.from_numpy(images), torch.from_numpy(labels), classes=2)
    tensors = dataset.torch(transform=lambda image: image.float() / 255)
    assert isinstance(tensors, torch.utils.data.Dataset)
    batches = list(torch.utils.data.DataLoader(tensors, batch_size=16))
    assert torch.allclose(torch.cat([batch[0] for batch in batches]) * 255, torch.from_numpy(images).float())
    assert torch.cat([batch[1] for batch in batches]).tolist() == labels.tolist()
    plain = next(iter(torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=1)))
    assert (plain[0].numpy() == images[:4]).all()
    assert (pickle.loads(pickle.dumps(dataset)).images == images).all()


def test_networks_of_torch_get_tensors():
    torch = pytest.importorskip("torch")

    class Generator(torch.nn.Module):
        def forward(self, latents, labels):
            assert not torch.is_grad_enabled() and labels.dtype == torch.int64
            return torch.tanh(latents + labels[:, None] - 0.5).repeat(1, 4).reshape(-1, 1, 8, 8)

    class Teacher(torch.nn.Module):
        def forward(self, images):
            light = images.flatten(1).float().mean(1) / 255
            return torch.stack([1 - light, light], 1)

    with pytest.raises(gafi.UsageError, match="eval"):
        gafi.expand(Generator(), classes=CLASSES, latent_dim=16, range=(-1, 1))
    source = gafi.expand(Generator().eval(), std=1.5, classes=CLASSES, latent_dim=16, range=(-1, 1))
    samples = source.filter(Teacher(), threshold=0.5).take(20)
    light = samples.images.reshape(40, -1).mean(axis=1) / 255
    assert (light[:20] < 0.5).all() and (light[20:] > 0.5).all()


def test_ctrl_c_stops_and_what_is_complete_resumes(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    script = f"""
import os, signal, sys, time
import numpy as np
import gafi
# A program that a shell starts in the background ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
calls = 0
def generate(latents, labels):
    global calls
    calls += 1
    if calls == 200 and "once" in sys.argv:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    return np.clip(128 + 40 * latents, 0, 255).astype(np.uint8).reshape(-1, 1, 2, 2)
source = gafi.expand(generate, std=1.0, classes=2, latent_dim=4, image=(1, 2, 2))
try:
    source.save({str(tmp_path / "set")!r}, per_class=10000, identity="toy")
except KeyboardInterrupt:
    sys.exit(42)
print(calls)
"""
    run = lambda *args: subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True)
    stopped = run("once")
    assert stopped.returncode == 42, stopped.stderr
    assert not (tmp_path / "set").exists()
    resumed = run()
    assert resumed.returncode == 0, resumed.stderr
    # 314 blocks of 64; the first shard of 8,192 rows, 128 blocks, was complete.
    assert int(resumed.stdout) <= 314 - 128 + 2
    again = gafi.expand(
        lambda z, y: np.clip(128 + 40 * z, 0, 255).astype(np.uint8).reshape(-1, 1, 2, 2), classes=2, latent_dim=4, image=(1, 2, 2)
    ).take(10000)
    saved = gafi.Dataset(tmp_path / "set").load()
    assert all((saved.images[saved.labels == k] == again.images[again.labels == k]).all() for k in (0, 1))
    assert signal.getsignal(signal.SIGINT) is handler
