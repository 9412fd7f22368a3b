"""Writes ops.safetensors: inputs, results and gradients of the ops as PyTorch computes them.

    python3 gafi-kernels/tests/goldens/ops.py

Each case NAME has NAME.in.0, NAME.in.1, ..., NAME.out, the upstream gradient NAME.up, and NAME.grad.0, ... The tests in
ops_golden.rs know what the op of each name is. Computed in f64, stored in f32.
"""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(20240607)
tensors = {}


def case(name, function, *shapes, scale=1.0):
    inputs = [(torch.randn(s, dtype=torch.float64) * scale).float().double().requires_grad_() for s in shapes]
    out = function(*inputs)
    up = torch.randn(out.shape, dtype=torch.float64).float().double()
    out.backward(up)
    for i, t in enumerate(inputs):
        tensors[f"{name}.in.{i}"] = t.detach().float().contiguous()
        tensors[f"{name}.grad.{i}"] = t.grad.float().contiguous()
    tensors[f"{name}.out"] = out.detach().float().contiguous()
    tensors[f"{name}.up"] = up.float().contiguous()


case("conv3", lambda x, w, b: F.conv2d(x, w, b, padding=1), (2, 5, 9, 11), (12, 5, 3, 3), (12,))
case("conv3s2", lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1), (3, 4, 9, 8), (9, 4, 3, 3), (9,))
case("conv4s2", lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1), (2, 6, 10, 10), (8, 6, 4, 4), (8,))
case("conv1", lambda x, w: F.conv2d(x, w), (2, 17, 4, 8), (10, 17, 1, 1))
case(
    "upconv3",
    lambda x, w, b: F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), w, b, padding=1),
    (2, 6, 5, 4),
    (7, 6, 3, 3),
    (7,),
)
# Channels in whole panels of 16: Winograd's transforms.
case("conv3_16", lambda x, w, b: F.conv2d(x, w, b, padding=1), (2, 16, 7, 5), (32, 16, 3, 3), (32,))
case("batch_norm", lambda x, g, b: F.batch_norm(x, None, None, g, b, True, 0.1, 1e-5), (4, 3, 5, 6), (3,), (3,), scale=2.0)
case(
    "batch_norm_relu",
    lambda x, g, b: F.relu(F.batch_norm(x, None, None, g, b, True, 0.1, 1e-5)),
    (4, 3, 5, 6),
    (3,),
    (3,),
    scale=2.0,
)
case(
    "conditional_batch_norm",
    lambda x, g, b: F.batch_norm(x, None, None, None, None, True, 0.1, 1e-4) * g[:, :, None, None] + b[:, :, None, None],
    (4, 3, 5, 6),
    (4, 3),
    (4, 3),
)
case(
    "batch_norm_eval",
    lambda x, g, b: F.batch_norm(
        x, torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64), torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64), g, b, False, 0.1, 1e-5
    ),
    (2, 3, 5, 6),
    (3,),
    (3,),
)
case("upsample2x", lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), (2, 3, 3, 5))
case("avg_pool2x2", lambda x: F.avg_pool2d(x, 2), (2, 3, 7, 6))
case("max_pool2x2", lambda x: F.max_pool2d(x, 2), (2, 3, 7, 6))
case("global_sum", lambda x: x.sum((2, 3)), (2, 3, 7, 6))
case("add_relu", lambda a, b: F.relu(a + b), (2, 3, 7, 5), (2, 3, 7, 5))
case("relu", F.relu, (2, 3, 7, 5))
case("leaky_relu", lambda x: F.leaky_relu(x, 0.2), (2, 3, 7, 5))
case(
    "attend",
    lambda q, k, v: (
        v.flatten(2) @ F.softmax(q.flatten(2).transpose(1, 2) @ k.flatten(2), -1).transpose(1, 2)
    ).unflatten(2, q.shape[2:]),
    (2, 5, 4, 6),
    (2, 5, 2, 3),
    (2, 7, 2, 3),
)
case("tanh", torch.tanh, (2, 3, 7))
case("cross_entropy", lambda x: F.cross_entropy(x, torch.tensor([3, 0, 9, 9, 5])), (5, 10), scale=3.0)
case("linear", F.linear, (4, 7), (5, 7), (5,))

path = pathlib.Path(__file__).with_suffix(".safetensors")
save_file(tensors, path, metadata={"torch": torch.__version__})
print(path.stat().st_size, "bytes")
