"""A generator that runs as a program: it draws blurred spots, bright for even classes, dark for odd ones.

    gafi-cli import-generator --from command --out spots \\
        --include gafi_generator.py --include command_generator.py -- \\
        python3 {artifact}/command_generator.py --size 8 --classes disc,square

It needs only the standard library. Replace `spot` with your network. With PyTorch, draw the latent of each sample by

    torch.randn(d, generator=torch.Generator().manual_seed(seed)) * std

one sample at a time, so that no sample depends on its batch.
"""

import argparse
import math
import random

import gafi_generator


def spot(seed, std, bright, size):
    """One image of size * size bytes. All its randomness comes from its seed."""
    draw = random.Random(seed)
    row, column, width = ((size - 1) / 2 + std * size / 8 * draw.gauss(0, 1) for _ in range(3))
    width = max(abs(width) / 2, 1)
    pixels = bytearray()
    for y in range(size):
        for x in range(size):
            height = math.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2))
            light = 0.1 + 0.8 * height if bright else 0.9 - 0.8 * height
            pixels.append(round(255 * light))
    return pixels


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--classes", default="bright,dark")
    options = parser.parse_args()
    size = options.size

    def draw(request):
        samples = zip(request["seeds"], request["std"])
        images = b"".join(spot(seed, std, request["class"] % 2 == 0, size) for seed, std in samples)
        return {"images": ("U8", [request["count"], 1, size, size], images)}

    hello = {"classes": options.classes.split(","), "image": [1, size, size], "std": True}
    gafi_generator.serve(hello, draw)


if __name__ == "__main__":
    main()
