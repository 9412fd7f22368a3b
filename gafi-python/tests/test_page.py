"""The Python of docs/foreign-generator.md, run word by word; only the images and the weights are toys, and the student trains for 3 epochs."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import gafi

PAGE = Path(__file__).parents[2] / "docs/foreign-generator.md"

MODEL = """
import torch

class Generator(torch.nn.Module):
    \"\"\"A pattern shows the class, its brightness the latent.\"\"\"

    def __init__(self):
        super().__init__()
        patterns = (torch.rand(10, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()
        self.patterns = torch.nn.Parameter(patterns.repeat_interleave(7, 1).repeat_interleave(7, 2).reshape(10, 784))

    def forward(self, z, y):
        light = 1.2 + 0.3 * z[:, :1]
        noise = 0.1 * z[:, :98].repeat(1, 8)
        return torch.tanh(2 * self.patterns[y] * light - 1 + noise)
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder with somebody's model and weights, and real images of the same ten classes."""
    torch = pytest.importorskip("torch")
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("model", None)
    from model import Generator

    network = Generator()
    torch.save(network.state_dict(), "generator.pth")
    random = np.random.default_rng(0)
    labels = np.arange(1000) % 10
    with torch.inference_mode():
        real = network(torch.from_numpy(random.standard_normal((1000, 100), dtype=np.float32)), torch.from_numpy(labels))
    images = np.clip((real.numpy() + 1) * 127.5 + random.normal(0, 10, (1000, 784)), 0, 255).astype(np.uint8)
    np.savez(
        "toys.npz",
        x_train=images[:900].reshape(-1, 28, 28),
        y_train=labels[:900],
        x_test=images[900:].reshape(-1, 28, 28),
        y_test=labels[900:],
    )
    yield tmp_path
    sys.modules.pop("model", None)


def test_the_page_works(repository, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) == 10
    names = {}
    for block in blocks:
        block = block.replace('"import", "mnist"', '"import", "toys.npz", "--val-fraction", "0.1"')
        block = block.replace('"--epochs", 30', '"--epochs", 3')
        # So few images need more steps.
        block = block.replace('"--epochs", 3', '"--epochs", 3, "--set", "classifier.batch=16"')
        exec(compile(block, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "500 images" not in printed and "5000 images (1, 28, 28) of 10 classes" in printed
    assert "2 (1000, 1, 28, 28) 1000" in printed
    assert (repository / "look.html").stat().st_size > 1000
    dataset = names["dataset"]
    assert dataset.manifest["content"]["counts"] == [500] * 10
    # The labels that the page checks are right: nearly everything is accepted.
    accepted = [count.acceptance for count in gafi.filter(dataset, teacher="teacher").tally]
    assert min(accepted) == 1.0
    assert tuple(names["images"].shape) == (64, 1, 28, 28)
