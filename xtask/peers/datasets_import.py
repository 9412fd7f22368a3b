"""Seconds that `datasets` and Pillow take to decode parquet files of images into arrays on disk, on all cores.

Usage: datasets_import.py FOLDER, which holds train.parquet and test.parquet with the columns img and label. Prints one line of JSON.
`benches/import.rs` of gafi-data starts it on the files that it imports.
"""
import json
import os
import sys
import tempfile
import time

import datasets
import numpy as np


def main() -> None:
    folder = sys.argv[1]
    datasets.disable_progress_bars()
    files = {split: os.path.join(folder, f"{split}.parquet") for split in ("train", "test")}
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=out)
        for split, rows in loaded.items():
            rows = rows.cast_column("img", datasets.Image())

            def decode(batch: dict) -> dict:
                return {"pixels": [np.asarray(image).tobytes() for image in batch["img"]]}

            rows = rows.map(decode, batched=True, num_proc=os.cpu_count(), remove_columns=["img"])
            pixels = np.stack([np.frombuffer(p, np.uint8) for p in rows["pixels"]])
            np.savez(os.path.join(out, split), x=pixels, y=np.array(rows["label"]))
        seconds = time.perf_counter() - start
    print(json.dumps({"case": "datasets and Pillow", "rows": sum(map(len, loaded.values())), "seconds": round(seconds, 2)}))


if __name__ == "__main__":
    main()
