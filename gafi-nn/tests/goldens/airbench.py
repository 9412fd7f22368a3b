"""Golden values for gafi-nn's `airbench`, its SGD and its Muon, from PyTorch in f64 (stored as f32).

    python3 airbench.py        # writes airbench.safetensors next to this file; made with torch 2.15

The network is written here from the description in arXiv 2404.00498, with gafi-nn's parameter names.
"""
import pathlib

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(21)
torch.set_default_dtype(torch.float64)
WIDTH, CLASSES, CHANNELS, HEIGHT, W = 8, 5, 2, 18, 17
STEPS, LR, MOMENTUM, DECAY, BIAS_RATE, SMOOTHING = 3, (0.05, 0.05, 0.01), 0.85, 2e-3, 64.0, 0.2
# Small tensors of each kind and depth.
SHOWN = ["whiten.bias", "block1.conv1.weight", "block1.norm1.bias", "block1.conv2.weight", "block2.conv1.weight",
         "block2.norm2.bias", "block3.norm1.bias", "block3.norm2.bias", "head.weight"]


class Norm(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad = False


class Block(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(i, o, 3, padding=1, bias=False), Norm(o)
        self.conv2, self.norm2 = nn.Conv2d(o, o, 3, padding=1, bias=False), Norm(o)

    def forward(self, x):
        h = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(h)))


class Airbench(nn.Module):
    def __init__(self):
        super().__init__()
        filters = 8 * CHANNELS
        self.whiten = nn.Conv2d(CHANNELS, filters, 2)
        self.whiten.weight.requires_grad = False
        self.block1, self.block2, self.block3 = Block(filters, WIDTH), Block(WIDTH, 4 * WIDTH), Block(4 * WIDTH, 4 * WIDTH)
        self.head = nn.Linear(4 * WIDTH, CLASSES, bias=False)

    def forward(self, x):
        h = self.block3(self.block2(self.block1(F.gelu(self.whiten(x)))))
        return self.head(h.amax((2, 3))) / 9


# Smooth images, so that the eigenvalues of their patches differ.
noise = torch.randn(40, CHANNELS, HEIGHT + 4, W + 4)
smooth = F.avg_pool2d(noise, (5, 5), 1) + 0.15 * noise[:, :, 2:-2, 2:-2]
smooth[:, 1] += 0.5 * smooth[:, 0]
pixels = (127.5 + 90 * smooth).clamp(0, 255).round().to(torch.uint8)
x = pixels.double() / 127.5 - 1

# Whitening of normalised images, then the normalisation folded into the filters.
mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3), correction=0)
normal = (x - mean[:, None, None]) / std[:, None, None]
patches = F.unfold(normal, 2).transpose(1, 2).reshape(-1, 4 * CHANNELS)
values, vectors = torch.linalg.eigh(torch.cov(patches.T))
vectors = vectors.T.flip(0)
vectors *= vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
filters = (vectors / (values.flip(0)[:, None] + 5e-4).sqrt()).reshape(-1, CHANNELS, 2, 2)
filters = torch.cat([filters, -filters])
weight = filters / std[:, None, None]
bias = -(weight * mean[:, None, None]).sum((1, 2, 3))
assert torch.allclose(F.conv2d(normal, filters), F.conv2d(x, weight, bias))

net = Airbench()
for name, p in net.named_parameters():
    with torch.no_grad():
        if name.startswith("whiten"):
            p.copy_(weight if name.endswith("weight") else bias)
        elif p.dim() > 1:
            nn.init.kaiming_normal_(p)
        elif name.endswith("bias"):
            p.add_(0.2 * torch.randn_like(p))
        p.copy_(p.float().double())
hidden = [k for k in net.state_dict() if "num_batches" in k or ("norm" in k and k.endswith("weight"))]
initial = {k: v.clone() for k, v in net.state_dict().items() if k not in hidden}
# Only what whitening and norms do not set.
out = {f"initial.{k}": v for k, v in initial.items() if "running" not in k and "whiten" not in k}
out |= {"pixels": pixels, "whiten.weight": weight, "whiten.bias": bias}
y = torch.randint(0, CLASSES, (STEPS, 8))
out["y"] = y


def fresh():
    net = Airbench()
    net.load_state_dict(initial, strict=False)
    return net.train()


out["logits.train"] = fresh()(x[:8])
net = fresh()
net(x[:8])
out["logits.eval"] = net.eval()(x[:8])

net = fresh()
named = dict(net.named_parameters())
of_norms = [p for k, p in named.items() if "norm" in k and k.endswith("bias")]
others = [p for k, p in named.items() if not ("norm" in k) and p.requires_grad]
optimizer = torch.optim.SGD([{"params": of_norms}, {"params": others}], LR[0], MOMENTUM, nesterov=True)
for step in range(STEPS):
    for group, factor in zip(optimizer.param_groups, (BIAS_RATE, 1.0)):
        group["lr"], group["weight_decay"] = LR[step] * factor, DECAY / factor
    net.zero_grad()
    F.cross_entropy(net(x[8 * step:8 * step + 8]), y[step], label_smoothing=SMOOTHING).backward()
    if step == 0:
        out |= {f"grad.{k}": named[k].grad.clone() for k in SHOWN}
    optimizer.step()
    if step in (0, STEPS - 1):
        out |= {f"sgd{step + 1}.{k}": named[k].detach().clone() for k in SHOWN}
out |= {f"momentum3.{k}": optimizer.state[named[k]]["momentum_buffer"] for k in SHOWN}

# Muon for the filters, written from its description at https://kellerjordan.github.io/posts/muon, SGD for the rest.
# The third step has 0.1 / 0.24 of the highest rates.
MUON_LR, MUON_REST, MUON_MOMENTUM = (0.24, 0.24, 0.1), (0.05, 0.05, 0.1 / 0.24 * 0.05), 0.6


def orthogonal(m):
    x = m / (m.norm() + 1e-7)
    x = x.T if m.shape[0] > m.shape[1] else x
    for _ in range(3):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if m.shape[0] > m.shape[1] else x


net = fresh()
named = dict(net.named_parameters())
filters = [p for p in named.values() if p.dim() == 4 and p.requires_grad]
others = [p for k, p in named.items() if p.requires_grad and p.dim() != 4 and not ("norm" in k)]
of_norms = [p for k, p in named.items() if "norm" in k and k.endswith("bias")]
optimizer = torch.optim.SGD([{"params": of_norms}, {"params": others}], LR[0], MOMENTUM, nesterov=True)
buffers = [torch.zeros_like(p) for p in filters]
for step in range(STEPS):
    for group, factor in zip(optimizer.param_groups, (BIAS_RATE, 1.0)):
        group["lr"], group["weight_decay"] = MUON_REST[step] * factor, DECAY / factor
    net.zero_grad()
    F.cross_entropy(net(x[8 * step:8 * step + 8]), y[step], label_smoothing=SMOOTHING).backward()
    optimizer.step()
    with torch.no_grad():
        for p, buffer in zip(filters, buffers):
            buffer.mul_(MUON_MOMENTUM).add_(p.grad)
            update = orthogonal((p.grad + MUON_MOMENTUM * buffer).flatten(1)).view_as(p)
            p.mul_(len(p) ** 0.5 / p.norm()).sub_(update, alpha=MUON_LR[step])
    if step in (0, STEPS - 1):
        out |= {f"muon{step + 1}.{k}": named[k].detach().clone() for k in SHOWN}

out = {k: v.detach().contiguous() for k, v in out.items()}
out = {k: v.float() if v.is_floating_point() else v for k, v in out.items()}
path = pathlib.Path(__file__).with_suffix(".safetensors")
save_file(out, path)
print(path, path.stat().st_size, "bytes", len(out), "tensors")
