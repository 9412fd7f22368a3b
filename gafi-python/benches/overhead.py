"""What calling through Python costs: the same networks called by Rust, and by Rust through functions of Python.

    python gafi-python/benches/overhead.py RUN [--samples 2000] [--rounds 7]

RUN is a finished run of the pipeline. Both ways generate and filter the same samples in batches of 64, in turns; the figure is the
median of the rounds' ratios.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import gafi


def artifact(run: Path, stage: str) -> Path:
    """The first artifact of a stage."""
    for manifest in sorted(run.glob("*/manifest.json")):
        if json.loads(manifest.read_text())["made_by"]["stage"] == stage:
            return manifest.parent
    raise SystemExit(f"{run} has no artifact of {stage}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    paths = artifact(options.run, "train-gan"), artifact(options.run, "train-classifier")
    generator, teacher = gafi.Generator(paths[0]), gafi.Classifier(paths[1])
    shape = {"classes": generator.classes, "latent_dim": generator.latent_dim, "image": generator.image}
    per_class = options.samples // len(generator.classes)
    ways = {
        "rust": lambda: gafi.expand(paths[0], std=1.2, seed=1).filter(paths[1], max_attempts=0),
        "python": lambda: gafi.expand(lambda z, y: generator(z, y), std=1.2, seed=1, **shape).filter(
            lambda images: teacher(images), max_attempts=0
        ),
    }
    ratios, samples = [], {}
    for round_ in range(options.rounds + 1):
        wall = {}
        for way in sorted(ways, reverse=round_ % 2 == 1):
            source = ways[way]()
            begin = time.perf_counter()
            samples[way] = source.take(per_class)
            wall[way] = time.perf_counter() - begin
        if round_:  # The first one warms up.
            ratios.append(wall["python"] / wall["rust"])
    assert (samples["rust"].images == samples["python"].images).all()
    n, drawn = len(samples["rust"]), sum(count.drawn for count in samples["rust"].tally)
    print(
        f"{n} samples kept of {drawn}, {wall['rust']:.2f} s by Rust; through Python {statistics.median(ratios):.3f} times as long"
    )
    print("rounds:", " ".join(f"{ratio:.3f}" for ratio in ratios))


if __name__ == "__main__":
    main()
