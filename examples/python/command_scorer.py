"""A teacher that runs as a program: it compares the brightness of an image's middle with that of its rim.

    gafi-cli import-teacher --from command --out judge \\
        --include gafi_generator.py --include command_scorer.py -- \\
        python3 {artifact}/command_scorer.py --size 8 --classes disc,square

It needs only the standard library. Replace `score` with your network, in evaluation mode, so that the probabilities of an image do
not depend on its batch.
"""

import argparse
import array
import math

import gafi_generator


def score(image, size, classes):
    """Class probabilities and two features of one image: the mean grey of its middle and of its rim, in [0, 1]."""
    middle, rim = [], []
    for at, value in enumerate(image):
        y, x = divmod(at, size)
        inner = size // 4 <= y < size - size // 4 and size // 4 <= x < size - size // 4
        (middle if inner else rim).append(value / 255)
    features = [sum(middle) / len(middle), sum(rim) / len(rim)]
    odd = 1 / (1 + math.exp(6 * (features[0] - features[1])))
    evens = (classes + 1) // 2
    # Odd classes share `odd`, even classes the rest; normalising covers a single class.
    weights = [odd / (classes - evens) if c % 2 else (1 - odd) / evens for c in range(classes)]
    return [w / sum(weights) for w in weights], features


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--classes", default="bright,dark")
    options = parser.parse_args()
    size, classes = options.size, options.classes.split(",")

    def score_request(request):
        (n, *_), pixels = gafi_generator.load(request["images"], "images")
        probabilities, features = array.array("f"), array.array("f")
        for row in range(n):
            image = pixels[row * size * size : (row + 1) * size * size]
            p, f = score(image, size, len(classes))
            probabilities.extend(p)
            features.extend(f)
        answer = {"probabilities": ("F32", [n, len(classes)], probabilities)}
        if request["features"]:
            answer["features"] = ("F32", [n, 2], features)
        return answer

    gafi_generator.serve({"classes": classes, "image": [1, size, size], "feature_dim": 2}, score_request)


if __name__ == "__main__":
    main()
