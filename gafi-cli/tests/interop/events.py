"""Reads the output of the verb `tensorboard` with TensorBoard's reader, and compares each scalar with the log.

    python events.py GAFI-CLI FOLDER

`cargo xtask test --interop` calls it. FOLDER is emptied first; nothing is downloaded.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

gafi, work = sys.argv[1], pathlib.Path(sys.argv[2]).absolute()
shutil.rmtree(work, ignore_errors=True)
work.mkdir(parents=True)


def run(*arguments):
    done = subprocess.run([gafi, *map(str, arguments)], cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}\n{done.stderr}"


def flat(name, value):
    if isinstance(value, dict):
        return [number for key, inner in value.items() for number in flat(f"{name}/{key}", inner)]
    return [(name, value)] if isinstance(value, (int, float)) else []


def expected(log):
    """Tag to (step, value), in the order of the log."""
    series = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        counted = next((key for key in ["step", "epoch"] if key in record), None)
        for key in [key for key in record if counted and key != counted]:
            for name, value in flat(f"{record['event']}/{key}", record[key]):
                series.setdefault(name, []).append((record[counted], np.float32(value)))
    return series


def main():
    shapes = "shapes={ classes = 2, train = 160, test = 40 }"
    run("import", "shapes", "--out", "data", "--set", "size=8", "--set", shapes)
    classifier = "classifier={ architecture = { depth = 20, width = 4 }, epochs = 3, batch = 32 }"
    run("train-classifier", "--train", "data/train", "--val", "data/val", "--out", "run/teacher", "--set", classifier)
    gan = 'architecture={ name = "small", z = 8, shared = 4, g = [8], d = [8] }'
    small = ["length.steps=20", "batch=16", "checkpoints=[20]", gan]
    run("train-gan", "--train", "data/train", "--out", "run/gan", *[word for s in small for word in ["--set", s]])
    run("tensorboard", "run", "--output", "logs")
    for stage in ["teacher", "gan"]:
        found = EventAccumulator(str(work / "logs" / stage)).Reload()
        series = expected(work / "run" / stage / "log.jsonl")
        assert series and sorted(found.Tags()["scalars"]) == sorted(series), (found.Tags(), series.keys())
        for tag, points in series.items():
            scalars = found.Scalars(tag)
            assert [(s.step, np.float32(s.value)) for s in scalars] == points, tag
            times = [s.wall_time for s in scalars]
            assert times == sorted(times) and times[0] > 1e9, (tag, times)
        print(f"{stage}: {len(series)} series, equal")


main()
