"""A teacher as a program: says how bright the middle of an image is against its rim.

    gafi-cli import-teacher --from command --out judge \\
        --include gafi_generator.py --include command_scorer.py -- \\
        python3 {artifact}/command_scorer.py --size 8 --classes disc,square

The standard library will do. A network stands where `opinion` does; mind to switch it to evaluation, so that no image's
probabilities depend on the batch that it is in.
"""

import argparse
import array
import math

import gafi_generator


def opinion(image, size, classes):
    """The probability of each class, and two features: mean grey of the middle and of the rim, from 0 to 1."""
    middle, rim = [], []
    for at, value in enumerate(image):
        y, x = divmod(at, size)
        inner = size // 4 <= y < size - size // 4 and size // 4 <= x < size - size // 4
        (middle if inner else rim).append(value / 255)
    features = [sum(middle) / len(middle), sum(rim) / len(rim)]
    odd = 1 / (1 + math.exp(6 * (features[0] - features[1])))
    evens = (classes + 1) // 2
    # The odd classes share what the even ones leave; with one class alone there is nothing to share.
    weights = [odd / (classes - evens) if c % 2 else (1 - odd) / evens for c in range(classes)]
    return [w / sum(weights) for w in weights], features


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--classes", default="bright,dark")
    options = parser.parse_args()
    size, classes = options.size, options.classes.split(",")

    def judge(request):
        (n, *_), pixels = gafi_generator.load(request["images"], "images")
        probabilities, features = array.array("f"), array.array("f")
        for row in range(n):
            image = pixels[row * size * size : (row + 1) * size * size]
            p, f = opinion(image, size, len(classes))
            probabilities.extend(p)
            features.extend(f)
        answer = {"probabilities": ("F32", [n, len(classes)], probabilities)}
        if request["features"]:
            answer["features"] = ("F32", [n, 2], features)
        return answer

    gafi_generator.serve({"classes": classes, "image": [1, size, size], "feature_dim": 2}, judge)


if __name__ == "__main__":
    main()
