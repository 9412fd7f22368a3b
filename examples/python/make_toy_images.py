"""Draws the images of the tutorial: four classes of simple figures in mixed sizes and colours, a third of them greyscale.

    python make_toy_images.py FOLDER [--per-class 150] [--seed 0]

Writes FOLDER/CLASS/NUMBER.png. Needs `pillow`.
"""

import argparse
import pathlib
import random

from PIL import Image, ImageDraw

SIZES = [(40, 52), (48, 36), (50, 50)]


def bolt(draw, x, y, r, colour):
    corners = [(-1, -1), (0.33, -1), (0, 0), (1, 0), (-0.5, 1), (-0.17, 0.2)]
    draw.polygon([(x + dx * r, y + dy * r) for dx, dy in corners], fill=colour)


def cross(draw, x, y, r, colour):
    draw.line([x - r, y, x + r, y], fill=colour, width=4)
    draw.line([x, y - r, x, y + r], fill=colour, width=4)


def leaf(draw, x, y, r, colour):
    draw.ellipse([x - r, y - r / 2, x + r, y + r / 2], fill=colour)


def ring(draw, x, y, r, colour):
    draw.ellipse([x - r, y - r, x + r, y + r], outline=colour, width=4)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--per-class", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    for figure in [bolt, cross, leaf, ring]:
        folder = options.folder / figure.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(options.per_class):
            width, height = dice.choice(SIZES)
            image = Image.new("RGB", (width, height), tuple(dice.randint(0, 80) for _ in range(3)))
            centre = width / 2 + dice.uniform(-5, 5), height / 2 + dice.uniform(-5, 5)
            colour = tuple(dice.randint(120, 255) for _ in range(3))
            figure(ImageDraw.Draw(image), *centre, dice.uniform(9, 15), colour)
            if dice.random() < 1 / 3:
                image = image.convert("L")
            image.save(folder / f"{number:03}.png")


if __name__ == "__main__":
    main()
