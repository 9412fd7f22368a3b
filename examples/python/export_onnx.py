"""Exports a generator to ONNX, as `gafi-cli import-generator --from onnx model.onnx --classes disc,square` takes it.

    pip install torch onnx onnxscript
    python3 export_onnx.py

Put your own network in the place of `Generator`: latents (N, dim) and labels (N) to images (N, C, H, W) from -1 to 1. A classifier is
exported in the same way: images in, logits out, and as a second output, if you like, the features in front of its last layer.
"""

import torch
from torch import nn


class Generator(nn.Module):
    """A stand-in of untrained weights, 8x8, grey."""

    def __init__(self, dim=16, classes=2):
        super().__init__()
        self.dim, self.embed = dim, nn.Embedding(classes, dim)
        self.net = nn.Sequential(
            nn.ConvTranspose2d(2 * dim, 32, 4), nn.BatchNorm2d(32), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Tanh()
        )

    def forward(self, latents, labels):
        return self.net(torch.cat([latents, self.embed(labels)], 1)[:, :, None, None])


def main():
    net = Generator().eval()  # running statistics, no dropout
    latents, labels = torch.randn(2, net.dim), torch.tensor([0, 1])
    batch = {0: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        net,
        (latents, labels),
        "model.onnx",
        input_names=["latents", "labels"],
        output_names=["images"],
        dynamic_shapes=(batch, batch),
        opset_version=18,
        external_data=False,  # one file; with True, model.onnx.data goes with it
    )


if __name__ == "__main__":
    main()
