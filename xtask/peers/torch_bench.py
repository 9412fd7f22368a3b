"""GaFi's networks in PyTorch, the other side of `cargo xtask bench --peer xtask/peers/torch_bench.py`.

    python3 torch_bench.py --what classifier|airbench|gan --width N --batch N [--device cpu|cuda] [--bf16] [--tf32]
        [--channels-last] [--compile] [--threads N] [--reps N]

Prints a line of JSON: median seconds of a training step and of a batch of inference, 3x32x32 images of ten classes. Written
from the published descriptions: BigGAN-Deep in StudioGAN's block order, ResNet-20 with option-A shortcuts, airbench94.
With --bf16 everything runs under autocast, except that BigGAN-Deep samples in f32, as ours does. On a GPU cuDNN measures its
algorithms first, and without --tf32 nothing is rounded to TF32, which PyTorch does by default.
"""
import argparse
import json
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.parametrizations import spectral_norm as sn


def conv(i, o, k, bias=True):
    c = nn.Conv2d(i, o, k, padding=k // 2, bias=bias)
    nn.init.orthogonal_(c.weight)
    return sn(c, eps=1e-6)


class CBN(nn.Module):
    def __init__(self, ch, cond):
        super().__init__()
        self.bn = nn.BatchNorm2d(ch, eps=1e-5, momentum=0.1, affine=False)
        self.g = sn(nn.Linear(cond, ch, bias=False), eps=1e-6)
        self.b = sn(nn.Linear(cond, ch, bias=False), eps=1e-6)

    def forward(self, x, c):
        return self.bn(x) * (1 + self.g(c))[:, :, None, None] + self.b(c)[:, :, None, None]


class Attn(nn.Module):
    def __init__(self, ch):
        super().__init__()
        self.t, self.p = conv(ch, ch // 8, 1, False), conv(ch, ch // 8, 1, False)
        self.g, self.o = conv(ch, ch // 2, 1, False), conv(ch // 2, ch, 1, False)
        self.s = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        n, c, h, w = x.shape
        t = self.t(x).view(n, c // 8, h * w)
        p = F.max_pool2d(self.p(x), 2).view(n, c // 8, h * w // 4)
        g = F.max_pool2d(self.g(x), 2).view(n, c // 2, h * w // 4)
        a = torch.softmax(t.transpose(1, 2) @ p, -1)
        return x + self.s * self.o((g @ a.transpose(1, 2)).view(n, c // 2, h, w))


class GBlock(nn.Module):
    def __init__(self, i, o, cond, up):
        super().__init__()
        h = i // 4
        self.up = up
        self.n = nn.ModuleList([CBN(i, cond), CBN(h, cond), CBN(h, cond), CBN(h, cond)])
        self.c = nn.ModuleList([conv(i, h, 1), conv(h, h, 3), conv(h, h, 3), conv(h, o, 1)])
        self.skip = conv(i, o, 1)

    def forward(self, x, c):
        h = self.c[0](F.relu(self.n[0](x, c)))
        h = F.relu(self.n[1](h, c))
        if self.up:
            h, x = F.interpolate(h, scale_factor=2), F.interpolate(x, scale_factor=2)
        h = self.c[1](h)
        h = self.c[2](F.relu(self.n[2](h, c)))
        h = self.c[3](F.relu(self.n[3](h, c)))
        return h + self.skip(x)


class G(nn.Module):
    def __init__(self, classes=10, ch=128, z=128, shared=128, depth=2, out=3):
        super().__init__()
        cond = z + shared
        self.channels_last = False
        self.z, self.ch = z, ch
        self.emb = nn.Embedding(classes, shared)
        self.lin = sn(nn.Linear(cond, ch * 4 * 16), eps=1e-6)
        self.blocks = nn.ModuleList()
        for b in range(3):
            for d in range(depth):
                self.blocks.append(GBlock(ch * 4, ch * 4, cond, d == depth - 1))
            if b == 1:
                self.blocks.append(Attn(ch * 4))
        self.bn = nn.BatchNorm2d(ch * 4, eps=1e-5)
        self.out = conv(ch * 4, out, 3)

    def forward(self, z, y):
        c = torch.cat([z, self.emb(y)], 1)
        h = self.lin(c).view(-1, self.ch * 4, 4, 4)
        if self.channels_last:
            h = h.to(memory_format=torch.channels_last)
        for b in self.blocks:
            h = b(h, c) if isinstance(b, GBlock) else b(h)
        return torch.tanh(self.out(F.relu(self.bn(h))))


class DBlock(nn.Module):
    def __init__(self, i, o, down, first=False):
        super().__init__()
        h = o // 4
        self.down, self.first = down, first
        self.c = nn.ModuleList([conv(i, h, 1), conv(h, h, 3), conv(h, h, 3), conv(h, o, 1)])
        self.skip = conv(i, o, 1) if (i != o or down) else None

    def forward(self, x):
        h = self.c[2](F.relu(self.c[1](F.relu(self.c[0](F.relu(x))))))
        if self.down:
            h = F.avg_pool2d(h, 2)
        h = self.c[3](F.relu(h))
        if self.first:
            return h + self.skip(F.avg_pool2d(x, 2))
        if self.skip is not None:
            x = self.skip(x)
        if self.down:
            x = F.avg_pool2d(x, 2)
        return h + x


class D(nn.Module):
    def __init__(self, classes=10, ch=128, depth=2, inp=3):
        super().__init__()
        self.stem = conv(inp, ch, 3)
        dims = [(ch, ch * 4, True), (ch * 4, ch * 4, True), (ch * 4, ch * 4, False)]
        bl = []
        for b, (i, o, dn) in enumerate(dims):
            for d in range(depth):
                bl.append(DBlock(i if d == 0 else o, o, dn and d == 0, first=b == 0 and d == 0))
            if b == 0:
                bl.append(Attn(o))
        self.blocks = nn.Sequential(*bl)
        self.lin = sn(nn.Linear(ch * 4, 1), eps=1e-6)
        self.emb = sn(nn.Embedding(classes, ch * 4), eps=1e-6)

    def forward(self, x, y):
        h = F.relu(self.blocks(self.stem(x))).sum((2, 3))
        return self.lin(h)[:, 0] + (self.emb(y) * h).sum(1)


class RB(nn.Module):
    def __init__(self, i, o, s):
        super().__init__()
        self.s, self.pad = s, (o - i) // 2
        self.c1, self.b1 = nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o)
        self.c2, self.b2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)

    def forward(self, x):
        h = self.b2(self.c2(F.relu(self.b1(self.c1(x)))))
        if self.s != 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(h + x)


class ResNet20(nn.Module):
    def __init__(self, classes=10, w=64, inp=3):
        super().__init__()
        self.c, self.b = nn.Conv2d(inp, w, 3, 1, 1, bias=False), nn.BatchNorm2d(w)
        L, i = [], w
        for o, s in [(w, 1), (2 * w, 2), (4 * w, 2)]:
            for k in range(3):
                L.append(RB(i, o, s if k == 0 else 1))
                i = o
        self.l, self.f = nn.Sequential(*L), nn.Linear(4 * w, classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight)

    def forward(self, x):
        return self.f(self.l(F.relu(self.b(self.c(x)))).mean((2, 3)))


class AirBlock(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(i, o, 3, padding=1, bias=False), nn.Conv2d(o, o, 3, padding=1, bias=False)
        self.b1, self.b2 = nn.BatchNorm2d(o, 1e-12, 0.4), nn.BatchNorm2d(o, 1e-12, 0.4)
        self.b1.weight.requires_grad = self.b2.weight.requires_grad = False

    def forward(self, x):
        h = F.gelu(self.b1(F.max_pool2d(self.c1(x), 2)))
        return F.gelu(self.b2(self.c2(h)))


class Airbench(nn.Module):
    def __init__(self, classes=10, w=64, inp=3):
        super().__init__()
        self.whiten = nn.Conv2d(inp, 8 * inp, 2)
        self.whiten.weight.requires_grad = False
        self.blocks = nn.Sequential(AirBlock(8 * inp, w), AirBlock(w, 4 * w), AirBlock(4 * w, 4 * w))
        self.f = nn.Linear(4 * w, classes, bias=False)

    def forward(self, x):
        return self.f(self.blocks(F.gelu(self.whiten(x))).amax((2, 3))) / 9


def gan_step(g, d, go, do, x, y, zdim, dsteps):
    n = x.shape[0]
    for p in d.parameters():
        p.requires_grad_(True)
    for _ in range(dsteps):
        with torch.no_grad():
            fake = g(torch.randn(n, zdim, device=x.device), y)
        scores = d(torch.cat([fake, x]), torch.cat([y, y]))
        loss = F.relu(1 - scores[n:]).mean() + F.relu(1 + scores[:n]).mean()
        do.zero_grad()
        loss.backward()
        do.step()
    for p in d.parameters():
        p.requires_grad_(False)
    loss = -d(g(torch.randn(n, zdim, device=x.device), y), y).mean()
    go.zero_grad()
    loss.backward()
    go.step()


def timed(step, warm, reps):
    for _ in range(warm):
        step()
    times = []
    for _ in range(reps):
        begin = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


def classifier(a, placed, x, y):
    kind = ResNet20 if a.what == "classifier" else Airbench
    net = placed(kind(w=a.width))
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1, 0.9, nesterov=True)

    def step():
        with torch.autocast(a.device, torch.bfloat16, enabled=a.bf16):
            loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    train = timed(step, 2, a.reps)
    net.eval()
    with torch.no_grad(), torch.autocast(a.device, torch.bfloat16, enabled=a.bf16):
        return train, timed(lambda: net(x), 2, a.reps)


def gan(a, placed, x, y):
    plain = G(ch=a.width)
    plain.channels_last = a.channels_last
    g, d = placed(plain), placed(D(ch=a.width))
    go, do = (torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999), eps=1e-6) for net in (g, d))

    def step():
        with torch.autocast(a.device, torch.bfloat16, enabled=a.bf16):
            gan_step(g, d, go, do, x, y, 128, 3)

    train = timed(step, 1, a.reps)
    z = torch.randn(a.batch, 128, device=a.device)
    g.eval()
    with torch.no_grad():
        return train, timed(lambda: g(z, y), 1, a.reps)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--what", choices=["classifier", "airbench", "gan"], default="classifier")
    for name, default in [("width", 16), ("batch", 128), ("threads", 2), ("reps", 5)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    for name in ["bf16", "tf32", "channels-last", "compile"]:
        parser.add_argument(f"--{name}", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = a.tf32
    layout = torch.channels_last if a.channels_last else torch.contiguous_format

    def placed(net):
        net = net.to(a.device).to(memory_format=layout)
        return torch.compile(net) if a.compile else net

    x = torch.randn(a.batch, 3, 32, 32, device=a.device).to(memory_format=layout)
    y = torch.randint(0, 10, (a.batch,), device=a.device)
    train, infer = (gan if a.what == "gan" else classifier)(a, placed, x, y)
    print(json.dumps({**vars(a), "train_step_s": train, "infer_s": infer}))


if __name__ == "__main__":
    main()
