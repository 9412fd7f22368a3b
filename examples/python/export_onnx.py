"""Exports a generator to ONNX for `gafi-cli import-generator --from onnx model.onnx --classes disc,square`.

    pip install torch onnx onnxscript
    python3 export_onnx.py

Replace `Generator` with your own network: latents (N, dim) and labels (N) to images (N, C, H, W) from -1 to 1. Export a classifier the
same way: images in, logits out; the features before its last layer are an optional second output.
"""

import torch
from torch import nn


class Generator(nn.Module):
    """A placeholder with untrained weights: 8x8 images, greyscale."""

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
        external_data=False,  # one file; True writes the weights to model.onnx.data
    )


if __name__ == "__main__":
    main()
