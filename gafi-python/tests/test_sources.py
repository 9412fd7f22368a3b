"""Expanding, filtering and recycling with functions of Python."""

import threading
import time

import numpy as np
import pytest

import gafi
from conftest import CLASSES, SHAPE, generate, score


def test_samples_do_not_depend_on_how_many_are_taken():
    def take(*sizes, **options):
        source = gafi.expand(generate, std=1.5, classes=CLASSES, latent_dim=16, seed=3, **options)
        parts = [source.take(n) for n in sizes]
        return [np.concatenate([part.images[part.labels == label] for part in parts]) for label in (0, 1)]

    once = take(90)
    for other in (take(20, 70), take(90, batch_size=7)):
        assert all((a == b).all() for a, b in zip(once, other, strict=True))
    assert once[0].shape == (90, *SHAPE) and once[0].dtype == np.uint8


def test_the_same_samples_as_the_stage_expand(artifacts, tmp_path):
    generator = artifacts["train-gan"]
    gafi.call("expand", "--generator", generator, "--std", 1.3, "--per-class", 30, "--seed", 5, "--out", tmp_path / "stage")
    stage = gafi.Dataset(tmp_path / "stage").load()
    for ours in (generator, gafi.Generator(generator)):
        samples = gafi.expand(ours, std=1.3, seed=5).take(30)
        for label in range(2):
            assert (samples.images[samples.labels == label] == stage.images[stage.labels == label]).all()
        assert samples.classes == stage.classes


def spread(std):
    """Mean standard deviation of a pixel of class dark."""
    samples = gafi.expand(generate, std=std, classes=2, latent_dim=16).take(400)
    return samples.images[samples.labels == 0].std(axis=0).mean()


def test_a_wider_std_spreads_the_samples():
    assert spread(1.0) == pytest.approx(2 * spread(0.5), rel=0.02)
    assert 1.05 * spread(0.5) < spread((0.5, 1.0)) < 0.95 * spread(1.0)


def test_filtering_a_source_keeps_what_the_teacher_recognises(source):
    samples = source.filter(score, threshold=0.55).take(40)
    probabilities = score(samples.images)
    own = probabilities[np.arange(80), samples.labels]
    assert (samples.labels == np.repeat([0, 1], 40)).all()
    assert (own > 0.55).all() and np.allclose(own, samples.confidence)
    for count in samples.tally:
        assert count.accepted == 40 and count.backfilled == 0
        assert count.drawn == 40 + sum(count.rejected_as.values()) > 40
        assert count.acceptance == 40 / count.drawn


def test_filter_equals_a_filtered_source_and_the_stage(source, teacher, tmp_path):
    raw = source.take(60)
    kept = gafi.filter(raw.images, raw.labels, teacher, threshold=0.5, classes=raw.classes, keep_probabilities=True)
    assert 0 < len(kept) < 120
    gafi.call(
        "filter", "--samples", raw.save(tmp_path / "raw").path, "--teacher", teacher, "--threshold", 0.5, "--out", tmp_path / "f"
    )
    stage = gafi.Dataset(tmp_path / "f").load()
    again = gafi.expand(generate, std=4.0, classes=CLASSES, latent_dim=16, seed=3).filter(teacher, threshold=0.5)
    for label in range(2):
        ours, theirs = kept.labels == label, stage.labels == label
        assert (kept.images[ours] == stage.images[theirs]).all()
        assert (kept.confidence[ours] == stage.confidence[theirs]).all()
        assert (again.pull(label, 5).images == kept.images[ours][:5]).all()
    assert (np.diff(kept.ids.astype(np.int64)) > 0).all(), "in the order of the samples"
    assert (kept.images == raw.images[kept.ids.astype(int)]).all()
    assert (kept.probabilities.argmax(axis=1) == kept.labels).all()
    for samples in (tmp_path / "raw", gafi.Dataset(tmp_path / "raw"), raw):
        again = gafi.filter(samples, teacher, threshold=0.5)
        assert (again.ids == kept.ids).all() and again.classes == CLASSES and again.tally == kept.tally
    for count in kept.tally:
        assert count.drawn == count.accepted + sum(count.rejected_as.values())


def test_a_teacher_of_other_classes_is_refused(source, teacher):
    raw = source.take(4)
    for judge in (teacher, score):
        with pytest.raises(ValueError, match="3"):
            gafi.filter(raw.images, raw.labels, judge, classes=3)
    with pytest.raises(ValueError, match=r"labels\[4\]"):
        gafi.filter(raw.images, raw.labels + 1, teacher)
    with pytest.raises(gafi.UsageError, match="dark, light, found light, dark"):
        gafi.filter(raw.images, raw.labels, teacher, classes=["light", "dark"])
    with pytest.raises(ValueError, match="dark, light, found 0, 1"):
        gafi.expand(generate, classes=2, latent_dim=16).filter(teacher)
    assert gafi.filter(raw.images, raw.labels, teacher).classes == CLASSES
    three = gafi.expand(generate, classes=3, latent_dim=16)
    with pytest.raises(ValueError, match="2 classes"):
        three.filter(teacher)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_batch_of_filter_changes_nothing(batch_size):
    raw = gafi.expand(generate, std=4.0, classes=CLASSES, latent_dim=16).take(50)
    expected = gafi.filter(raw.images, raw.labels, score, threshold=0.5)
    kept = gafi.filter(raw.images, raw.labels, score, threshold=0.5, batch_size=batch_size)
    assert 0 < len(kept) < 100
    assert (kept.ids == expected.ids).all() and kept.tally == expected.tally
    assert (kept.images == raw.images[kept.ids.astype(int)]).all()


def test_an_exhausted_class_is_an_error_that_names_it(source):
    with pytest.raises(gafi.ExhaustedError, match="light"):
        source.filter(lambda images: np.tile(np.float32([1, 0]), (len(images), 1)), max_attempts=2).take(10)


def test_backfill_is_counted(source):
    never = lambda images: np.tile(np.float32([1, 0]), (len(images), 1))
    samples = source.filter(never, max_attempts=2, on_exhausted="backfill").take(10)
    assert [count.backfilled for count in samples.tally] == [0, 10]


def test_recycling_replaces_the_share_that_it_should():
    def sets(**options):
        source = gafi.expand(generate, std=1.0, classes=2, latent_dim=16)
        return list(gafi.recycle(source, per_class=20, epochs=4, **options))

    whole = sets(period=1, factor=1.0)
    assert [epoch.renewed for epoch in whole] == [40] * 4
    every = gafi.expand(generate, std=1.0, classes=2, latent_dim=16).take(80)
    seen = np.concatenate([epoch.images[epoch.labels == 0] for epoch in whole])
    assert (seen == every.images[every.labels == 0]).all(), "each epoch has the next samples"
    part = sets(period=2, factor=0.25)
    assert [epoch.renewed for epoch in part] == [40, 0, 10, 0]
    changed = (part[1].images != part[2].images).any(axis=(1, 2, 3))
    assert changed[:20].sum() == changed[20:].sum() == 5
    assert [epoch.renewed for epoch in sets(period=None)] == [40, 0, 0, 0]


def test_a_filtered_source_recycles_with_soft_labels(source):
    kept = source.filter(score, threshold=0.5, keep_probabilities=True)
    for epoch in gafi.recycle(kept, per_class=10, epochs=2, factor=0.5):
        assert np.allclose(epoch.probabilities, score(epoch.images))


def test_a_source_is_used_once(source):
    source.filter(score)
    with pytest.raises(gafi.Error, match="filtered"):
        source.take(1)
    with pytest.raises(ValueError, match="already"):
        gafi.recycle(source, per_class=2, epochs=1)


def test_a_generator_without_latents_gets_seeds():
    seen = []

    def generate(seeds, labels):
        assert seeds.dtype == np.uint64 and seeds.shape == labels.shape
        seen.extend(seeds.tolist())
        return np.stack([np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8) for seed in seeds])

    samples = gafi.expand(generate, classes=2, image=SHAPE, seed=1, batch_size=5).take(20)
    assert len(set(seen)) == len(seen) == 40 and len(np.unique(samples.images, axis=0)) == 40
    again = gafi.expand(generate, classes=2, seed=1, batch_size=8).take(20)
    assert (again.images == samples.images).all()
    with pytest.raises(ValueError, match="std"):
        gafi.expand(generate, std=1.5, classes=2)


def test_floats_need_a_range_and_are_rounded():
    def floats(latents, labels):
        return np.tanh(np.tile(latents, 4)).reshape(-1, *SHAPE)

    with pytest.raises(ValueError, match=r"range=\(-1, 1\)"):
        gafi.expand(floats, classes=2, latent_dim=16)
    samples = gafi.expand(floats, classes=2, latent_dim=16, range=(-1, 1), seed=1).take(30)
    latents = np.float32([[-1.0, 0.0, 0.5, 1.0] * 4])
    exact = gafi.expand(lambda z, y: np.tile(latents, (len(z), 4)).reshape(-1, *SHAPE), classes=2, latent_dim=16, range=(-1, 1))
    assert exact.take(1).images[0].ravel()[:4].tolist() == [0, 128, 191, 255]
    assert samples.images.std() > 50
    beyond = gafi.expand(
        lambda z, y: np.tile(np.linspace(-1, 1.1, 64), (len(z), 1)).reshape(-1, *SHAPE), classes=2, latent_dim=3, range=(-1, 1)
    )
    assert beyond.take(1).images[0].ravel()[-3:].tolist() == [255, 255, 255], "values beyond the range are clamped"
    for wrong in [(0, 1), (0, 255)]:
        with pytest.raises(gafi.UsageError, match="outside range"):
            gafi.expand(floats, classes=2, latent_dim=16, range=wrong)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda images: np.zeros((len(images), 2), np.float32), "softmax"),
        (lambda images: np.full((len(images), 3), 1 / 3, np.float32), r"\(64, 2\)"),
        (lambda images: np.ones(len(images), np.float32), r"\(64, 2\)"),
    ],
)
def test_a_wrong_teacher_is_refused(source, teacher, message):
    with pytest.raises(ValueError, match=message):
        source.filter(teacher).take(3)


def test_an_exception_of_a_function_comes_back_as_it_was(source):
    class Mine(Exception):
        pass

    def broken(images):
        raise Mine("here")

    with pytest.raises(Mine, match="here"):
        source.filter(broken).take(3)


def test_other_threads_run_while_rust_works(artifacts):
    source = gafi.expand(artifacts["train-gan"], std=1.0)
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    source.take(2000)
    done.set()
    thread.join()
    assert len(ticks) > 5


def test_a_generator_whose_images_depend_on_their_batch_is_refused():
    def normalised(latents, labels):
        return np.tanh(np.tile(latents - latents.mean(axis=0), 4)).reshape(-1, *SHAPE)

    with pytest.raises(gafi.UsageError, match="batch"):
        gafi.expand(normalised, classes=2, latent_dim=16, range=(-1, 1))
    with pytest.raises(ValueError, match="latents") as raised:
        gafi.expand(lambda z, y: (_ for _ in ()).throw(ValueError("no latents")), classes=2)
    assert any("seeds" in note for note in raised.value.__notes__)


def test_a_file_is_no_artifact(tmp_path, source):
    (tmp_path / "generator.pth").write_bytes(b"weights")
    for use in (gafi.expand, gafi.Classifier, source.filter):
        with pytest.raises(gafi.UsageError, match="function"):
            use(tmp_path / "generator.pth")


def test_a_function_that_uses_its_own_source_is_refused(source):
    def greedy(images):
        kept.take(1)
        return score(images)

    kept = source.filter(greedy)
    with pytest.raises(gafi.Error, match="another call"):
        kept.take(3)


def test_values_out_of_range_name_their_key(source):
    with pytest.raises(gafi.UsageError, match="std"):
        gafi.expand(generate, std=0.0, classes=2, latent_dim=16)
    with pytest.raises(gafi.UsageError, match="threshold"):
        source.filter(score, threshold=1.0)
    with pytest.raises(gafi.UsageError, match="on_exhausted"):
        source.filter(score, on_exhausted="stop")
    assert len(source.take(1)) == 2, "a refused filter leaves the source as it was"
    with pytest.raises(gafi.UsageError, match="factor"):
        gafi.recycle(source, per_class=2, epochs=1, factor=2.0)
