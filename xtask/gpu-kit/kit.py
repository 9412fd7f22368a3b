"""Helps run.sh: finds CUDA libraries, measures PyTorch, and makes tables of what was measured.

    kit.py folders            prints the folders of the CUDA libraries that Python packages brought
    kit.py peers FILE         appends PyTorch's times to FILE, channels-last, one line of JSON per run
    kit.py compiled FILE      the same through torch.compile, for the ResNet
    kit.py tables WORK OUT    writes OUT/bench.jsonl from WORK/ours.jsonl and WORK/peers.jsonl, prints tables in Markdown

Reads the variables of run.sh: DEVICE, WIDTHS, REPS and DTYPES. Exit code 77 means that the measurement is impossible here.
"""
import contextlib
import glob
import io
import json
import os
import shutil
import subprocess
import sys
import time

DEVICE = os.environ.get("DEVICE", "cuda")
# The name of a network, its batch, its cases, and the peer's key for each of them.
NETWORKS = {
    "classifier": (128, {"classifier-train": "train_step_s", "classifier-infer": "infer_s"}),
    "gan": (64, {"gan-train": "train_step_s", "gan-sample": "infer_s"}),
    "airbench": (1000, {"airbench-train": "train_step_s", "airbench-infer": "infer_s"}),
}


def folders():
    found = [glob.glob(os.path.join(path or ".", "nvidia", "*", "lib")) for path in sys.path]
    return [os.path.abspath(folder) for each in found for folder in sorted(each)]


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def torch_runs(compiled):
    """Arguments of torch_bench.py: every network at the first width, the classifier at all of them."""
    widths = os.environ.get("WIDTHS", "64 32").split()
    dtypes = os.environ.get("DTYPES", "bf16,tf32,f32").split(",")
    for dtype in dtypes[:1] if compiled else dtypes:
        for width in widths:
            for network, (batch, _) in NETWORKS.items():
                if network == "classifier" or (width == widths[0] and not compiled):
                    args = ["--what", network, "--width", width, "--batch", str(batch), "--channels-last"]
                    args += ["--" + dtype] * (dtype != "f32") + ["--compile"] * compiled
                    yield dtype, args


def measure(file, compiled):
    try:
        import torch
    except ImportError as error:
        skip(f"PyTorch cannot be imported: {error}")
    if DEVICE == "cuda" and not torch.cuda.is_available():
        skip("this PyTorch sees no GPU")
    if compiled and not any(map(shutil.which, ["cc", "gcc", "g++", "clang"])):
        skip("torch.compile needs a C compiler")
    import torch_bench

    failed = 0
    for dtype, args in torch_runs(compiled):
        args += ["--device", DEVICE, "--reps", os.environ.get("REPS", "20"), "--threads", str(os.cpu_count() or 1)]
        sys.argv = ["torch_bench.py", *args]
        begin = time.monotonic()
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                torch_bench.main()
            line = json.loads(printed.getvalue().splitlines()[-1])
            line.update(dtype=dtype, torch=torch.__version__, wall_s=round(time.monotonic() - begin, 1))
            print(json.dumps(line), flush=True)
            with open(file, "a") as lines:
                print(json.dumps(line), file=lines)
        except Exception as error:  # One network that fails must not hide the others.
            failed += 1
            print(f"{' '.join(args)}: {type(error).__name__}: {error}", flush=True)
        if compiled:
            torch.compiler.reset()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
    if failed:
        sys.exit(f"{failed} measurements failed")


def read(*path):
    """The objects in a file of JSON lines; none if there is no file."""
    try:
        with open(os.path.join(*path)) as lines:
            return [json.loads(line) for line in lines]
    except FileNotFoundError:
        return []


def card():
    if DEVICE == "cpu":
        return "CPU"
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=10).stdout.splitlines()[0].strip()
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return "GPU"


def merged(ours, peers):
    """Our lines with the peers' times, under the names of `cargo xtask bench`."""
    times = {}
    for peer in peers:
        for case, key in NETWORKS[peer["what"]][1].items():
            times[case, peer["width"], peer["dtype"], peer["compile"]] = peer[key]
    name = card()
    for line in ours:
        line = {"card": name, "device": DEVICE, "reps": int(os.environ.get("REPS", "20")), **line}
        line["ours_s"] = line.pop("seconds")
        found = {
            layout: times.get((line["bench"], line["width"], line["dtype"], layout == "compile"))
            for layout in ["channels-last", "compile"]
        }
        line["eager_s"], line["compile_s"] = found.values()
        found = {layout: seconds for layout, seconds in found.items() if seconds}
        if found:
            layout = min(found, key=found.get)
            line.update(peer_s=found[layout], peer_layout=layout, torch=peers[0]["torch"])
            line["ratio"] = round(line["ours_s"] / found[layout], 3)
        yield line


def table(head, rows):
    """A table in Markdown, its columns from the fourth on aligned right."""
    if not rows:
        return
    print("\n| " + " | ".join(head) + " |")
    print("|" + "---|" * 3 + "---:|" * (len(head) - 3))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


def ms(seconds):
    return f"{1000 * seconds:.2f}" if seconds else ""


def tables(work, out):
    bench = list(merged(read(work, "ours.jsonl"), read(work, "peers.jsonl")))
    with open(os.path.join(out, "bench.jsonl"), "w") as lines:
        for line in bench:
            print(json.dumps(line), file=lines)
    head = ["card", "case", "dtype", "width", "ours, ms", "enqueued, ms", "PyTorch, ms", "torch.compile, ms", "ratio"]
    table(head, [
        [line["card"], f"`{line['bench']}`", line["dtype"], line["width"], ms(line["ours_s"]), ms(line["enqueue_s"]),
         ms(line["eager_s"]), ms(line["compile_s"]), line.get("ratio", "")]
        for line in bench
    ])

    shapes = {}
    for line in read(out, "convolutions.jsonl"):
        key = tuple(str(line.get(name, "")) for name in ["shape", "product", "precision"])
        shapes.setdefault(key, {})[line.get("api")] = line.get("microseconds")
    rows = []
    for key, times in shapes.items():
        legacy, graph = times.get("legacy"), times.get("graph")
        rows.append([*key, legacy or "", graph or "", round(graph / legacy, 2) if legacy and graph else ""])
    table(["convolution", "product", "precision", "legacy, µs", "graph, µs", "ratio"], rows)

    for line in read(out, "training.jsonl"):
        if "equal" in line:
            print(f"\n{line['step']}: the same bytes: {'yes' if line['equal'] else 'NO'}")
        else:
            student = os.environ.get("STUDENT") or "preset `gpu`'s student"
            print(f"\n{line['step']}: {line['images_per_s']} images per second, {student}")


def main():
    verb, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if verb == "folders":
        print(*folders(), sep="\n")
    elif verb in ["peers", "compiled"]:
        measure(*arguments, compiled=verb == "compiled")
    elif verb == "tables":
        tables(*arguments)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
