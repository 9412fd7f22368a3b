"""Loads every format of the verb `export` with the libraries it is for, and compares each pixel, label and name with the artifact,
which is read by safetensors alone.

    python interop.py GAFI-CLI REPOSITORY FOLDER

`cargo xtask test --interop` calls it with the packages of xtask/interop.txt. FOLDER is emptied first; nothing is downloaded.
"""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

# Before `datasets` is imported: no network, and no cache outside of the folder.
gafi, repository, work = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]).absolute()
shutil.rmtree(work, ignore_errors=True)
work.mkdir(parents=True)
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(work / "hub")}

import datasets
import numpy as np
import torch
import webdataset
import yaml
from PIL import Image
from safetensors.numpy import load_file, save_file
from torchvision.datasets import ImageFolder

datasets.disable_progress_bars()


def run(*arguments):
    done = subprocess.run([gafi, *map(str, arguments)], cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}\n{done.stderr}"


def artifact(name):
    """What is in an artifact: (content, columns). Images become (n, h, w) when grey, (n, h, w, 3) else, as PNG readers give them."""
    folder = work / name
    content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["content"]
    shards = [load_file(folder / shard["file"]) for shard in content["shards"]]
    columns = {key: np.concatenate([shard[key] for shard in shards]) for key in shards[0]}
    images = columns["images"].transpose(0, 2, 3, 1)
    columns["images"] = images[..., 0] if content["image"]["channels"] == 1 else images
    return content, columns


def same(what, found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype.kind == expected.dtype.kind, f"{what}: {found.dtype} instead of {expected.dtype}"
    assert found.shape == expected.shape, f"{what}: {found.shape} instead of {expected.shape}"
    assert (found == expected).all(), f"{what}: {(found != expected).sum()} values differ"


def opinions(what, rows, columns):
    """The teacher's columns, of rows as dictionaries; floats of 32 bits must come back exactly."""
    for key in ["confidence", "probabilities"]:
        if key in columns:
            same(f"{what}, {key}", np.array([row[key] for row in rows], np.float32), columns[key])


def hub(what, rows, content, columns):
    same(f"{what}, images", np.stack([np.asarray(image) for image in rows["image"]]), columns["images"])
    mode = "L" if content["image"]["channels"] == 1 else "RGB"
    assert rows[0]["image"].mode == mode, rows[0]["image"].mode
    same(f"{what}, labels", rows["label"], columns["labels"])
    assert rows.features["label"].names == content["classes"], rows.features
    opinions(what, rows, columns)


def check_card(out, name, content):
    text = (work / out / "README.md").read_text(encoding="utf-8")
    _, header, _ = text.split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["license"] == "other" and card["task_categories"] == ["image-classification"], card
    assert card["pretty_name"] == name and card["size_categories"] == ["n<1K"], card
    return card


def by_name(what, pictures, labels, names, folders, columns):
    """Compares rows sorted by folder name with ours, put into the same order."""
    ours = np.array([folders[label] for label in columns["labels"]])
    order = np.argsort(ours, kind="stable")
    same(f"{what}, images", np.stack(pictures), columns["images"][order])
    assert [names[label] for label in labels] == ours[order].tolist(), what


def image_folder(out, content, columns, split):
    classes = json.loads((work / out / "classes.json").read_text(encoding="utf-8"))
    assert classes["classes"] == content["classes"]
    found = ImageFolder(work / out)
    mode = "L" if content["image"]["channels"] == 1 else "RGB"
    pictures = [np.asarray(Image.open(path)) for path, _ in found.samples]
    by_name("ImageFolder", pictures, found.targets, found.classes, classes["folders"], columns)
    assert all(Image.open(path).mode == mode for path, _ in found.samples[:3])
    rows = datasets.load_dataset(str(work / out), split=split)
    names = rows.features["label"].names
    by_name("imagefolder", [np.asarray(i) for i in rows["image"]], rows["label"], names, classes["folders"], columns)


def parquet(out, content, columns, split):
    pattern = str(work / out / "data" / "*.parquet")
    hub("parquet", datasets.load_dataset("parquet", data_files=pattern, split="train"), content, columns)
    hub("parquet by its card", datasets.load_dataset(str(work / out), split=split), content, columns)
    stream = datasets.load_dataset(str(work / out), split=split, streaming=True)
    same("parquet, streamed", [row["label"] for row in stream], columns["labels"])


def web(out, content, columns, split):
    shards = sorted(str(path) for path in (work / out).glob(f"{split}-*.tar"))
    stream = webdataset.WebDataset(shards, shardshuffle=False).decode("pil")
    rows = list(stream)
    same("webdataset, images", np.stack([np.asarray(row["png"].convert(mode(content))) for row in rows]), columns["images"])
    same("webdataset, labels", [row["cls"] for row in rows], columns["labels"])
    assert [row["__key__"] for row in rows] == [f"{row:06}" for row in range(len(rows))]
    if "confidence" in columns:
        opinions("webdataset", [row["json"] for row in rows], columns)
    else:
        assert "json" not in rows[0], rows[0]
    assert json.loads((work / out / "classes.json").read_text(encoding="utf-8")) == content["classes"]
    # As a training script has it: several workers, batches.
    batches = webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("png", "cls").batched(16)
    assert sum(len(labels) for _, labels in torch.utils.data.DataLoader(batches, batch_size=None)) == len(rows)
    rows = datasets.load_dataset(str(work / out), split=split)
    same("webdataset on the hub", np.stack([np.asarray(i) for i in rows["png"]]), columns["images"])
    same("webdataset on the hub, labels", rows["cls"], columns["labels"])


def npz(out, content, columns, split):
    with np.load(work / out / "dataset.npz") as found:
        same("npz, images", found["images"], columns["images"])
        same("npz, labels", found["labels"], columns["labels"])
        assert (found["images"].dtype, found["labels"].dtype) == (np.uint8, np.int64)
        assert found["classes"].tolist() == content["classes"]
        for key in ["confidence", "probabilities"]:
            assert (key in found) == (key in columns)
            if key in columns:
                same(f"npz, {key}", found[key], columns[key])


def cifar_bin(out, content, columns, split):
    names = sorted(path.name for path in (work / out).glob("*.bin"))
    expected = [f"data_batch_{batch}.bin" for batch in range(1, 6)] if split == "train" else [names[0]]
    assert names == expected, names
    records = np.concatenate([np.fromfile(work / out / name, np.uint8) for name in names]).reshape(-1, 3073)
    same("cifar, labels", records[:, 0].astype(np.int64), columns["labels"])
    same("cifar, images", records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), columns["images"])
    assert (work / out / "batches.meta.txt").read_text(encoding="utf-8").splitlines() == content["classes"]


def mode(content):
    return "L" if content["image"]["channels"] == 1 else "RGB"


def card_snippet(out, rows):
    """Runs what the card says, so that nobody has to find out that it does not."""
    text = (work / out / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0].replace("PATH", str(work / out))
    names = {}
    exec(code, names)
    assert len(list(names["images"])) == rows, code


CHECKS = {"image-folder": image_folder, "parquet": parquet, "webdataset": web, "npz": npz, "cifar-bin": cifar_bin}


def prepare():
    """Real sets, grey and in colour; and one in colour with a teacher's opinion and with odd class names."""
    shapes = "shapes={ classes = 3, train = 240, test = 60 }"
    for name, size, channels in [("grey", 20, 1), ("colour", 32, 3)]:
        run("import", "shapes", "--out", name, "--set", f"size={size}", "--set", f"channels={channels}", "--set", shapes)
    content, columns = artifact("colour/train")
    shards = [load_file(work / "colour/train" / shard["file"]) for shard in content["shards"]]
    rng = np.random.default_rng(0)
    for shard in shards:
        chances = rng.dirichlet(np.ones(3), len(shard["labels"])).astype(np.float32).clip(0, 1)
        shard["probabilities"] = chances
        shard["confidence"] = np.take_along_axis(chances, shard["labels"][:, None], 1)[:, 0].copy()
    made = work / "made"
    made.mkdir()
    for shard, about in zip(shards, content["shards"]):
        save_file(shard, made / about["file"])
    content |= {"classes": ["T-shirt/top: \"x\"", "Zug", "zug"], "split": "synthetic"}
    (made / "content.json").write_text(json.dumps(content), encoding="utf-8")
    copy = "import pathlib, shutil, sys\nfor f in pathlib.Path('made').iterdir(): shutil.copy(f, sys.argv[1])\n"
    (work / "hand_over.py").write_text(copy)
    run("command", "--set", f"program={json.dumps([sys.executable, 'hand_over.py', '{out}'])}", "--out", "judged")


def main():
    prepare()
    for source, split in [("grey/train", "train"), ("colour/val", "validation"), ("judged", "train")]:
        content, columns = artifact(source)
        for format, check in CHECKS.items():
            if format == "cifar-bin" and source.startswith("grey"):
                continue
            # Folders of one name, on purpose: `datasets` caches by that name, and must not take one set for another.
            out = f"out/{source.replace('/', '-')}/{format}"
            run("export", source, "--format", format, "--out", out, "--name", 'Odd: "name"')
            check_card(out, 'Odd: "name"', content)
            check(out, content, columns, split)
            card_snippet(out, len(columns["labels"]))
            print(f"{source} as {format}: equal")
    more = "shapes={ classes = 3, train = 1800, test = 300 }"
    run("import", "shapes", "--out", "more", "--set", "size=20", "--set", "channels=1", "--set", more)
    example = [sys.executable, repository / "examples/python/train_on_gafi.py", "more/train", "more/test"]
    example += ["--epochs", "3", "--batch", "32", "--device", "cpu"]
    text = subprocess.run(list(map(str, example)), check=True, cwd=work, capture_output=True, text=True).stdout
    # Three classes, 300 images: a third is chance, give or take 0.03.
    assert "learning labels" in text and float(text.split()[-1]) > 0.45, text
    print(f"train_on_gafi.py: {text.splitlines()[-1]}")
    soft_labels(example)


def soft_labels(example):
    """What the example learns from a teacher who takes each class for the next one: to do so, but with --hard."""
    turned = work / "turned"
    shutil.copytree(work / "more/train", turned)
    for path in turned.glob("*.safetensors"):
        shard = load_file(path)
        shard["probabilities"] = np.float32(0.05) + np.float32(0.85) * np.eye(3, dtype=np.float32)[(shard["labels"] + 1) % 3]
        save_file(shard, path)
    for more, right in [([], False), (["--hard"], True)]:
        command = [*example[:2], turned, *example[3:], *more]
        text = subprocess.run(list(map(str, command)), check=True, cwd=work, capture_output=True, text=True).stdout
        assert ("learning probabilities" in text) != right, text
        assert (float(text.split()[-1]) > 0.45) == right, text


main()
