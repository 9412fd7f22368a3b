"""Filters the samples of a class-conditional diffusers pipeline with a PyTorch teacher, and exports what is kept.

    python filter_diffusers.py OUT [--per-class 50] [--threshold 0.5] [--steps 50] [--device cuda]

draws images of five ImageNet classes from DiT-XL/2 (facebook/DiT-XL-2-256) and keeps those that torchvision's ResNet-50 recognises, in
OUT (a GaFi dataset) and OUT-parquet (for `datasets.load_dataset`). The teacher never saw the generator, but both saw ImageNet: see
"When not to use it" in README.md. It needs `gafi`, `diffusers`, `torch`, `torchvision`, and for this model a GPU.

With a pipeline and a network of your own, use `source` and `teacher`. `source` returns a `gafi.Source`; its `filter` draws further
samples until every class is full.
"""

import argparse

import numpy as np
import torch

import gafi

# Names of the classes in the dataset, and their numbers in ImageNet.
CLASSES = {"goldfish": 1, "great white shark": 2, "tabby cat": 281, "zebra": 340, "ambulance": 407}


def source(pipe, class_labels, names, size, steps, seed=0):
    """Samples of a diffusers pipeline that takes `class_labels` and `generator`, such as DiTPipeline.

    It draws its own noise, so it gets seeds: every sample is a function of (seed, class, index).
    """

    def generate(seeds, labels):
        # One at a time: a pipeline takes one generator for a batch.
        images = [
            pipe(
                class_labels=[class_labels[label]],
                generator=torch.Generator("cpu").manual_seed(int(seed >> 1)),
                num_inference_steps=steps,
                output_type="np",
            ).images
            for seed, label in zip(seeds.tolist(), labels.tolist(), strict=True)
        ]
        return np.concatenate(images).transpose(0, 3, 1, 2)

    return gafi.expand(generate, classes=names, image=(3, size, size), range=(0, 1), seed=seed, batch_size=8)


def teacher(network, class_labels, mean, std, device="cpu"):
    """A teacher from a PyTorch network: uint8 images to probabilities of the chosen classes, among themselves."""
    mean, std = (torch.tensor(values, device=device).reshape(1, 3, 1, 1) for values in (mean, std))
    network = network.eval().to(device)

    def score(images):
        with torch.inference_mode():
            pixels = torch.from_numpy(images).to(device).float() / 255
            return network((pixels - mean) / std)[:, class_labels].softmax(dim=1)

    return score


def main():
    """Draws, filters, writes and exports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--per-class", type=int, default=50)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    from diffusers import DiTPipeline
    from torchvision.models import ResNet50_Weights, resnet50

    pipe = DiTPipeline.from_pretrained("facebook/DiT-XL-2-256").to(options.device)
    pipe.set_progress_bar_config(disable=True)
    names, numbers = list(CLASSES), list(CLASSES.values())
    judge = teacher(
        resnet50(weights=ResNet50_Weights.DEFAULT), numbers, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], options.device
    )
    kept = source(pipe, numbers, names, 256, options.steps).filter(judge, threshold=options.threshold, max_attempts=20)
    dataset = kept.save(options.out, options.per_class, identity=f"DiT-XL-2-256, {options.steps} steps, ResNet-50")
    for name, count in zip(names, kept.tally, strict=True):
        print(f"{name}: {count.accepted} kept of {count.drawn}")
    dataset.export(f"{options.out}-parquet")


if __name__ == "__main__":
    main()
