"""Golden values for gafi-nn's network and optimisers, from PyTorch in f64 (stored as f32).

    python3 nn.py        # writes nn.safetensors next to this file; made with torch 2.15

The network has gafi-nn's parameter names, so a state dict loads unchanged. The updates are Keras', written in plain tensor
operations and checked against torch.optim where the two agree.
"""
import pathlib

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(20)
torch.set_default_dtype(torch.float64)
WIDTH, CLASSES, CHANNELS, SIZE, BLOCKS = 4, 5, 3, 8, 3
# The last step has a tenth of the learning rate: momentum with the rate inside the buffer differs from momentum without.
STEPS, SGD_LR, MOMENTUM, DECAY = 3, (0.05, 0.05, 0.005), 0.9, 1e-3
# An epsilon large enough to show where it is added.
ADAM_LR, BETAS, EPS = 2e-3, (0.5, 0.999), 1e-4
EMA_DECAY = 0.8
# Every kind of parameter at every depth; all parameters would not fit in a small file.
SHOWN = ["stem.conv.weight", "stem.norm.weight", "stage1.2.conv2.weight", "stage2.0.conv1.weight",
         "stage2.0.norm1.bias", "stage3.0.conv1.weight", "stage3.2.norm2.weight", "head.weight", "head.bias"]


class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.stride, self.pad = stride, (o - i) // 2
        self.conv1, self.norm1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.norm2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)

    def forward(self, x):
        h = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.stride == 2:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(h + x)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.ModuleDict({"conv": nn.Conv2d(CHANNELS, WIDTH, 3, 1, 1, bias=False), "norm": nn.BatchNorm2d(WIDTH)})
        i = WIDTH
        for s in range(3):
            o = WIDTH << s
            blocks = [Block(i if b == 0 else o, o, 2 if s > 0 and b == 0 else 1) for b in range(BLOCKS)]
            setattr(self, f"stage{s + 1}", nn.Sequential(*blocks))
            i = o
        self.head = nn.Linear(i, CLASSES)

    def forward(self, x):
        h = F.relu(self.stem["norm"](self.stem["conv"](x)))
        return self.head(self.stage3(self.stage2(self.stage1(h))).mean((2, 3)))


def fresh(initial):
    net = ResNet()
    net.load_state_dict(initial, strict=False)
    return net.train()


def loss_of(net, x, y, smoothing=0.0):
    net.zero_grad()
    loss = F.cross_entropy(net(x), y, label_smoothing=smoothing)
    loss.backward()
    return loss


net = ResNet()
for name, p in net.named_parameters():
    # Gains and biases differ from 1 and 0 so that their gradients are tested; f32 values, as Rust loads them.
    with torch.no_grad():
        if p.dim() > 1:
            nn.init.kaiming_normal_(p)
        else:
            p.add_(0.2 * torch.randn_like(p))
        p.copy_(p.float().double())
initial = {k: v.clone() for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
x = torch.randn(STEPS, 6, CHANNELS, SIZE, SIZE).float().double()
y = torch.randint(0, CLASSES, (STEPS, 6))

out = {f"initial.{k}": v for k, v in initial.items()}
out |= {"x": x, "y": y}
out["logits.eval"] = fresh(initial).eval()(x[0, :2])

net = fresh(initial)
out["logits.train"] = net(x[0, :2])
out |= {f"buffers.{k}": v for k, v in net.state_dict().items() if "running" in k}
out["logits.eval_after"] = net.eval()(x[0, :2])

net = fresh(initial)
out["loss"] = loss_of(net, x[0], y[0])
out |= {f"grad.{k}": dict(net.named_parameters())[k].grad for k in SHOWN}
out["loss.smoothed"] = loss_of(fresh(initial), x[0], y[0], 0.1)

# SGDW (TensorFlow Addons): the decay is not multiplied by the learning rate and applies to every parameter; then a step of Keras' SGD.
# The moving average follows.
net = fresh(initial)
buf = {k: torch.zeros_like(p) for k, p in net.named_parameters()}
ema = {k: p.detach().clone() for k, p in net.named_parameters()}
for step in range(STEPS):
    loss_of(net, x[step], y[step])
    with torch.no_grad():
        for k, p in net.named_parameters():
            p.mul_(1 - DECAY)
            buf[k] = MOMENTUM * buf[k] + SGD_LR[step] * p.grad
            p.sub_(SGD_LR[step] * p.grad + MOMENTUM * buf[k])
            ema[k] = EMA_DECAY * ema[k] + (1 - EMA_DECAY) * p
    if step in (0, STEPS - 1):
        out |= {f"sgdw{step + 1}.{k}": dict(net.named_parameters())[k].detach().clone() for k in SHOWN}
out |= {f"momentum3.{k}": buf[k] for k in SHOWN}
out |= {f"ema3.{k}": ema[k] for k in SHOWN}

# Without decay and at a constant rate the update equals torch.optim.SGD.
a, b = fresh(initial), fresh(initial)
optimizer = torch.optim.SGD(a.parameters(), SGD_LR[0], MOMENTUM, nesterov=True)
buf = {k: torch.zeros_like(p) for k, p in b.named_parameters()}
for step in range(STEPS):
    loss_of(a, x[step], y[step])
    optimizer.step()
    loss_of(b, x[step], y[step])
    with torch.no_grad():
        for k, p in b.named_parameters():
            buf[k] = MOMENTUM * buf[k] + SGD_LR[0] * p.grad
            p.sub_(SGD_LR[0] * p.grad + MOMENTUM * buf[k])
assert all(torch.allclose(p, q, atol=1e-12) for p, q in zip(a.parameters(), b.parameters()))

# Keras' Adam adds epsilon to the root of the uncorrected second moment; torch.optim.Adam with an epsilon of its own for each step
# is the same.
net, b = fresh(initial), fresh(initial)
first = {k: torch.zeros_like(p) for k, p in net.named_parameters()}
second = {k: torch.zeros_like(p) for k, p in net.named_parameters()}
optimizer = torch.optim.Adam(b.parameters(), ADAM_LR, BETAS)
for step in range(STEPS):
    t = step + 1
    root = (1 - BETAS[1] ** t) ** 0.5
    loss_of(net, x[step], y[step])
    with torch.no_grad():
        for k, p in net.named_parameters():
            first[k] = BETAS[0] * first[k] + (1 - BETAS[0]) * p.grad
            second[k] = BETAS[1] * second[k] + (1 - BETAS[1]) * p.grad**2
            p.sub_(ADAM_LR * root / (1 - BETAS[0] ** t) * first[k] / (second[k].sqrt() + EPS))
    loss_of(b, x[step], y[step])
    optimizer.param_groups[0]["eps"] = EPS / root
    optimizer.step()
    if step in (0, STEPS - 1):
        out |= {f"adam{t}.{k}": dict(net.named_parameters())[k].detach().clone() for k in SHOWN}
assert all(torch.allclose(p, q, atol=1e-12) for p, q in zip(net.parameters(), b.parameters()))

out = {k: v.detach().contiguous() for k, v in out.items()}
out = {k: v.float() if v.is_floating_point() else v for k, v in out.items()}
path = pathlib.Path(__file__).with_suffix(".safetensors")
save_file(out, path)
print(path, path.stat().st_size, "bytes", len(out), "tensors")
