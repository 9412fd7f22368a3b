"""The program's side of GaFi's command protocol (docs/command-protocol.md). It needs only the standard library.

Copy this file next to your program:

    import gafi_generator
    gafi_generator.serve({"classes": ["cat", "dog"], "image": [3, 32, 32], "std": True}, draw)

`draw(request)` gets a request as a dictionary and returns the tensors of the answer: {"images": ("U8", shape, data)}, where data is
bytes or has a method `tobytes`, like a NumPy array. Everything the program prints goes to standard error.
"""

import json
import math
import os
import struct
import sys

PROTOCOL = 1
SIZES = {"U8": 1, "F32": 4}


def serve(hello, answer):
    """Sends `hello`, then answers requests until standard input ends. `answer(request)` returns {name: (dtype, shape, data)}."""
    # Keep standard output for answers: GaFi would read anything that a library prints there as one.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def send(message):
        out.write(json.dumps(message) + "\n")
        out.flush()

    greeting = json.loads(sys.stdin.buffer.readline())
    if greeting["protocol"] != PROTOCOL:
        raise SystemExit(f"expected protocol {PROTOCOL}, found {greeting['protocol']}: copy gafi_generator.py from your version of GaFi")
    send({"protocol": PROTOCOL, **hello})
    for line in iter(sys.stdin.buffer.readline, b""):
        request = json.loads(line)
        save(request["answer"], answer(request))
        send({"id": request["id"]})


def save(path, tensors):
    """Writes a safetensors file: the header's length, the header in JSON, then the data."""
    header, parts, end = {}, [], 0
    for name, (dtype, shape, data) in tensors.items():
        data = data.tobytes() if hasattr(data, "tobytes") else bytes(data)
        if len(data) != SIZES[dtype] * math.prod(shape):
            raise ValueError(f"{name}: expected {SIZES[dtype] * math.prod(shape)} bytes for {dtype} {list(shape)}, found {len(data)}")
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(data)]}
        parts.append(data)
        end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(parts))


def load(path, name):
    """Reads a tensor of a safetensors file. Returns its shape and its bytes, for `numpy.frombuffer` or `array.array`."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(length))[name]
        begin, end = entry["data_offsets"]
        file.seek(8 + length + begin)
        return entry["shape"], file.read(end - begin)
