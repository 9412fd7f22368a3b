"""Golden values for the guidance of a generator by a frozen classifier, from PyTorch in f64 (stored as f32).

    python3 guidance.py        # writes guidance.safetensors next to this file; made with torch 2.15

Both classifiers have gafi-nn's parameter names. Moments of the generated images run through two batches.
"""
import pathlib

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(33)
torch.set_default_dtype(torch.float64)
CLASSES, N, SIZE, PER_CLASS, WINDOW = 3, 5, 16, 8, 64.0
MOMENTS, ENTROPY, MIN_STD = 10.0, 0.3, 1e-3


class Residual(nn.Module):
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


class ResNet8(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.ModuleDict({"conv": nn.Conv2d(1, 4, 3, 1, 1, bias=False), "norm": nn.BatchNorm2d(4)})
        self.stage1, self.stage2, self.stage3 = (nn.Sequential(Residual(i, o, s)) for i, o, s in ((4, 4, 1), (4, 8, 2), (8, 16, 2)))
        self.head = nn.Linear(16, CLASSES)

    def stages(self, x):
        a = self.stage1(F.relu(self.stem["norm"](self.stem["conv"](x))))
        b = self.stage2(a)
        c = self.stage3(b)
        return [a, b, c], self.head(c.mean((2, 3)))


class Pooling(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o, eps=1e-12)
        self.conv2, self.norm2 = nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o, eps=1e-12)

    def forward(self, x):
        h = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(h)))


class Airbench(nn.Module):
    def __init__(self):
        super().__init__()
        self.whiten = nn.Conv2d(1, 8, 2)
        self.block1, self.block2, self.block3 = Pooling(8, 8), Pooling(8, 32), Pooling(32, 32)
        self.head = nn.Linear(32, CLASSES, bias=False)

    def stages(self, x):
        a = self.block1(F.gelu(self.whiten(x)))
        b = self.block2(a)
        c = self.block3(b)
        return [a, b, c], self.head(c.amax((2, 3))) / 9


def seen(net, x):
    maps, logits = net.stages(x)
    v = torch.cat([m.mean((2, 3)) for m in maps], 1)
    return torch.cat([v, v * v], 1), logits


out = {}
pixels = torch.randint(0, 256, (CLASSES * PER_CLASS, 1, SIZE, SIZE), dtype=torch.uint8)
# Classes differ in brightness.
pixels = (pixels.double() * torch.linspace(0.4, 1, CLASSES).repeat_interleave(PER_CLASS)[:, None, None, None]).to(torch.uint8)
out["pixels"] = pixels
fakes = [(torch.randn(N, 1, SIZE, SIZE) / 2).float().double() for _ in range(2)]
labels = [torch.tensor([0, 2, 2, 0, 2]), torch.tensor([1, 1, 2, 0, 1])]
for step in range(2):
    out |= {f"x{step}": fakes[step], f"labels{step}": labels[step]}
for name, net in (("resnet", ResNet8()), ("airbench", Airbench())):
    for key, p in [*net.named_parameters(), *net.named_buffers()]:
        if "num_batches" in key:
            continue
        with torch.no_grad():
            if p.dim() > 1:
                nn.init.kaiming_normal_(p)
            elif name == "airbench" and "norm" in key and key.endswith("weight"):
                p.fill_(1)
            elif key.endswith("var"):
                p.uniform_(0.5, 2)
            else:
                p.add_(0.3 * torch.randn_like(p))
            p.copy_(p.float().double())
    net.eval().requires_grad_(False)
    gains = lambda k: name == "airbench" and "norm" in k and k.endswith("weight")
    out |= {f"{name}.net.{k}": v.clone() for k, v in net.state_dict().items() if "num_batches" not in k and not gains(k)}

    values = seen(net, pixels.double() / 127.5 - 1)[0].reshape(CLASSES, PER_CLASS, -1)
    real = values.mean(1)
    std = values.var(1, correction=0).mean(0).sqrt().clamp(min=MIN_STD)
    out |= {f"{name}.real": real, f"{name}.scale": 1 / std}
    running = real.clone()
    for step in range(2):
        x = fakes[step].clone().requires_grad_()
        v, logits = seen(net, x)
        moved = []
        for c in range(CLASSES):
            mine = labels[step] == c
            # Each image moves the average by 1/64 of the way.
            moved.append(running[c] + (v[mine] - running[c]).sum(0) / WINDOW)
        moved = torch.stack(moved)
        off = (((moved - real) / std) ** 2).mean(1)
        loss = MOMENTS * off[labels[step]].mean() + ENTROPY * F.cross_entropy(logits, labels[step])
        loss.backward()
        running = moved.detach()
        out |= {f"{name}.loss{step}": loss, f"{name}.grad{step}": x.grad}
    out[f"{name}.running"] = running

out = {k: v.detach().contiguous() for k, v in out.items()}
out = {k: v.float() if v.is_floating_point() else v for k, v in out.items()}
path = pathlib.Path(__file__).with_suffix(".safetensors")
save_file(out, path)
print(path, path.stat().st_size, "bytes", len(out), "tensors")
