"""Trains a small network on a GaFi dataset and evaluates it on another one.

    python train_on_gafi.py TRAIN TEST [--epochs 5] [--batch 64] [--rate 0.05] [--seed 0] [--device cpu]
                            [--temperature 4] [--hard] [--no-flip]

TRAIN and TEST are dataset artifacts of `gafi-cli expand`, `filter` or `import`. Reading them needs no part of GaFi: a folder has a
`manifest.json` and safetensors files with `images` (uint8; n, channels, height, width) and `labels` (int64; n). docs/format.md has
the details.

If TRAIN has soft labels, a teacher's `probabilities` of each image (float32; n, classes), the network learns from them (Hinton et al.
2015, arXiv 1503.02531). `gafi-cli synthesize RUN --row gafi-plus` writes such a set. Its samples are unfiltered, so the teacher knows
their content better than the label does. --hard learns the labels instead.

It needs `torch`, `numpy` and `safetensors`, and runs on a CPU. The last line is the accuracy on TEST. Use real images for TEST, and
evaluate on it once: a choice made by test accuracy invalidates the test.
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F


def load(folder):
    """Reads a dataset artifact: the manifest's content, images (uint8), labels (int64), and probabilities or None."""
    folder = pathlib.Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if manifest["format"] != 2 or manifest["kind"] != "dataset":
        raise SystemExit(f"{folder}: found {manifest['kind']} of format {manifest['format']}, expected a dataset of format 2")
    content = manifest["content"]
    shards = [load_file(folder / shard["file"]) for shard in content["shards"]]
    images = torch.cat([shard["images"] for shard in shards])
    labels = torch.cat([shard["labels"] for shard in shards])
    assert len(images) == len(labels) == sum(content["counts"])
    soft = all("probabilities" in shard for shard in shards)
    return content, images, labels, torch.cat([shard["probabilities"] for shard in shards]) if soft else None


class Small(nn.Sequential):
    """Three convolutions, global average pooling and a linear layer: about 100,000 parameters."""

    def __init__(self, channels, classes, width=32):
        def block(into, out):
            convolution = nn.Conv2d(into, out, 3, padding=1, bias=False)
            # Pooling rounds up, so images of any size work.
            return [convolution, nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]

        blocks = block(channels, width) + block(width, 2 * width) + block(2 * width, 4 * width)
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))


def scaled(images, device):
    """Scales 8-bit pixels to [-1, 1]."""
    return images.to(device).float() / 127.5 - 1


def distillation(logits, probabilities, temperature):
    """Cross-entropy with the teacher's probabilities at a temperature; the factor keeps gradients independent of it."""
    softer = (probabilities.clamp_min(1e-38).log() / temperature).softmax(1)
    return temperature**2 * F.cross_entropy(logits / temperature, softer)


def augmented(images, flip, border=4):
    """Random crops of the zero-padded images and, with `flip`, random horizontal flips."""
    n, _, rows, columns = images.shape
    padded = F.pad(images, [border] * 4)
    y, x = torch.randint(2 * border + 1, (2, n, 1))
    row = y + torch.arange(rows)
    column = x + torch.where(torch.rand(n, 1) < (0.5 if flip else 1.0), torch.arange(columns), torch.arange(columns - 1, -1, -1))
    return padded[torch.arange(n)[:, None, None], :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(network, images, labels, device):
    network.eval()
    right = 0
    for x, y in zip(images.split(1000), labels.split(1000)):
        right += (network(scaled(x, device)).argmax(1).cpu() == y).sum().item()
    return right / len(labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="the dataset to train on")
    parser.add_argument("test", help="the dataset to test on")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.05, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=4.0, help="temperature of the soft labels")
    parser.add_argument("--hard", action="store_true", help="learn the labels even if there are probabilities")
    parser.add_argument("--no-flip", action="store_true", help="for images that change their class when mirrored, such as digits")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    content, images, labels, probabilities = load(args.train)
    test, test_images, test_labels, _ = load(args.test)
    soft = probabilities is not None and not args.hard
    for key in ["image", "classes"]:
        if content[key] != test[key]:
            raise SystemExit(f"{key}: expected the same in both datasets, found {content[key]} in {args.train} and {test[key]} in {args.test}")
    print(f"{len(images)} images to train on ({content['split']}), {len(test_images)} to test on ({test['split']})")
    print(f"learning soft labels at temperature {args.temperature:g}" if soft else "learning labels")

    network = Small(content["image"]["channels"], len(content["classes"])).to(args.device)
    optimiser = torch.optim.SGD(network.parameters(), lr=args.rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = args.epochs * -(-len(images) // args.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.rate, total_steps=max(steps, 2))
    for epoch in range(args.epochs):
        network.train()
        total = 0.0
        # Shuffle: rows of a dataset may be sorted by class.
        for rows in torch.randperm(len(images)).split(args.batch):
            logits = network(scaled(augmented(images[rows], not args.no_flip), args.device))
            if soft:
                loss = distillation(logits, probabilities[rows].to(args.device), args.temperature)
            else:
                loss = F.cross_entropy(logits, labels[rows].to(args.device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(rows)
        print(f"epoch {epoch + 1}: loss {total / len(images):.4f}")
    print(f"accuracy {accuracy(network, test_images, test_labels, args.device):.4f}")


if __name__ == "__main__":
    main()
