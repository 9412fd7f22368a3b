"""examples/python/filter_diffusers.py, with a tiny random pipeline and teacher."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import gafi

EXAMPLE = Path(__file__).parents[2] / "examples/python/filter_diffusers.py"


@pytest.fixture
def example():
    """The example as a module."""
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("filter_diffusers", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pipe():
    """A class-conditional diffusion pipeline of random weights, for images of 8x8."""
    diffusers = pytest.importorskip("diffusers")
    import torch

    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
        activation_fn="gelu-approximate",
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,),
        norm_num_groups=4,
        sample_size=8,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
    )
    pipe = diffusers.DiTPipeline(transformer=transformer.eval(), vae=vae.eval(), scheduler=diffusers.DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_samples_of_a_diffusers_pipeline_are_filtered(example, pipe, tmp_path):
    import torch

    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 1000))
    numbers = [1, 407]
    judge = example.teacher(network, numbers, [0.5] * 3, [0.25] * 3)
    make = lambda: example.source(pipe, numbers, ["fish", "ambulance"], 8, steps=2, seed=4)
    raw = make().take(12)
    assert raw.images.shape == (24, 3, 8, 8) and len(np.unique(raw.images[:12], axis=0)) == 12
    assert (make().take(12).images == raw.images).all(), "a sample is a function of seed, class and index"
    kept = make().filter(judge, threshold=0.4, max_attempts=0)
    dataset = kept.save(tmp_path / "kept", per_class=4, identity="tiny")
    probabilities = judge(dataset.images).numpy()
    assert (probabilities[np.arange(8), dataset.labels] > 0.5).all()
    assert dataset.classes == ["fish", "ambulance"]
    assert [count.accepted for count in kept.tally] == [4, 4]
    expected = gafi.filter(raw.images, raw.labels, judge, threshold=0.4)
    ours = expected.images[expected.labels == 0]
    assert len(ours) and (dataset.images[dataset.labels == 0][: len(ours)] == ours[:4]).all()
