"""Golden values of gafi-gan from PyTorch: `python3 gan.py` writes the *.safetensors next to this file (PyTorch 2.15, CPU).

The networks follow the published descriptions: BigGAN-Deep (StudioGAN's block order, 32x32) and the small projection GAN.
Spectral norm, Adam and the average are as in the released TensorFlow program. A state dict has the Rust names once the parametrisation prefixes are stripped. Weights are PyTorch's defaults, scaled so that no
gradient vanishes in rounding; the attention's gate is open so that it has an effect.
"""

import os
import re

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.nn.utils import parametrize

HERE = os.path.dirname(os.path.abspath(__file__))


class SpectralNorm(nn.Module):
    """One iteration from u in every pass, kept in training; the gradient flows through both vectors."""

    def __init__(self, rows):
        super().__init__()
        self.register_buffer("_u", torch.randn(rows))

    def forward(self, weight):
        unit = lambda t: t / (t.norm() + 1e-12)
        matrix = weight.flatten(1)
        v = unit(matrix.t() @ self._u)
        u = unit(matrix @ v)
        if self.training:
            self._u = u.detach()
        return weight / (u @ matrix @ v)


def sn(layer):
    return parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight.shape[0]))


def conv(i, o, k, bias=True):
    return sn(nn.Conv2d(i, o, k, padding=k // 2, bias=bias))


class CondNorm(nn.Module):
    def __init__(self, ch, cond):
        super().__init__()
        self.bn = nn.BatchNorm2d(ch, affine=False)
        self.gain = sn(nn.Linear(cond, ch, bias=False))
        self.shift = sn(nn.Linear(cond, ch, bias=False))

    def forward(self, x, c):
        return self.bn(x) * (1 + self.gain(c))[:, :, None, None] + self.shift(c)[:, :, None, None]


class Attention(nn.Module):
    def __init__(self, ch):
        super().__init__()
        self.query, self.key = conv(ch, ch // 8, 1, False), conv(ch, ch // 8, 1, False)
        self.value, self.out = conv(ch, ch // 2, 1, False), conv(ch // 2, ch, 1, False)
        self.scale = nn.Parameter(torch.full((1,), 0.7))

    def forward(self, x):
        n, c, h, w = x.shape
        q = self.query(x).view(n, c // 8, h * w)
        k = F.max_pool2d(self.key(x), 2).view(n, c // 8, h * w // 4)
        v = F.max_pool2d(self.value(x), 2).view(n, c // 2, h * w // 4)
        a = torch.softmax(q.transpose(1, 2) @ k, -1)
        return x + self.scale * self.out((v @ a.transpose(1, 2)).view(n, c // 2, h, w))


class GenBlock(nn.Module):
    def __init__(self, i, o, cond, up):
        super().__init__()
        h, self.up = i // 4, up
        for k, (a, b, size) in enumerate([(i, h, 1), (h, h, 3), (h, h, 3), (h, o, 1)]):
            self.add_module(f"norm{k}", CondNorm(a, cond))
            self.add_module(f"conv{k}", conv(a, b, size))
        self.skip = conv(i, o, 1)

    def forward(self, x, c):
        h = self.conv0(F.relu(self.norm0(x, c)))
        h = F.relu(self.norm1(h, c))
        if self.up:
            h, x = F.interpolate(h, scale_factor=2), F.interpolate(x, scale_factor=2)
        h = self.conv2(F.relu(self.norm2(self.conv1(h), c)))
        return self.conv3(F.relu(self.norm3(h, c))) + self.skip(x)


class Stage(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        for k, b in enumerate(blocks):
            self.add_module(f"block{k}", b)

    def forward(self, x, *c):
        for b in self.children():
            x = b(x, *c)
        return x


class BigG(nn.Module):
    def __init__(self, classes, ch, z, shared, depth, out, res=32):
        super().__init__()
        widths = {32: [4, 4, 4, 4], 64: [16, 8, 4, 2, 1]}[res]
        self.w, cond = [m * ch for m in widths], z + shared
        self.embedding = nn.Embedding(classes, shared)
        self.linear = sn(nn.Linear(cond, self.w[0] * 16))
        self.stages = len(widths) - 1
        for s in range(self.stages):
            i, o = self.w[s], self.w[s + 1]
            last = depth - 1
            self.add_module(f"stage{s}", Stage([GenBlock(i, o if d == last else i, cond, d == last) for d in range(depth)]))
        self.attention = Attention(self.w[self.stages - 1])
        self.norm = nn.BatchNorm2d(self.w[-1])
        self.out = conv(self.w[-1], out, 3)

    def forward(self, z, y):
        c = torch.cat([z, self.embedding(y)], 1)
        h = self.linear(c).view(-1, self.w[0], 4, 4)
        for s in range(self.stages):
            h = getattr(self, f"stage{s}")(h, c)
            if s == self.stages - 2:
                h = self.attention(h)
        return torch.tanh(self.out(F.relu(self.norm(h))))


class DiscBlock(nn.Module):
    def __init__(self, i, o, down, first):
        super().__init__()
        h, self.down, self.first = o // 4, down, first
        for k, (a, b, size) in enumerate([(i, h, 1), (h, h, 3), (h, h, 3), (h, o, 1)]):
            self.add_module(f"conv{k}", conv(a, b, size))
        self.skip = conv(i, o, 1) if (i != o or down) else None

    def forward(self, x):
        h = self.conv2(F.relu(self.conv1(F.relu(self.conv0(F.relu(x))))))
        if self.down:
            h = F.avg_pool2d(h, 2)
        h = self.conv3(F.relu(h))
        if self.first:
            return h + self.skip(F.avg_pool2d(x, 2))
        if self.skip is not None:
            x = self.skip(x)
        if self.down:
            x = F.avg_pool2d(x, 2)
        return h + x


class BigD(nn.Module):
    def __init__(self, classes, ch, depth, inp, res=32):
        super().__init__()
        outs = {32: [4, 4, 4], 64: [2, 4, 8, 16]}[res]
        downs = {32: [True, True, False], 64: [True] * 4}[res]
        self.stem, i = conv(inp, ch, 3), ch
        self.stages = len(outs)
        for s, (m, down) in enumerate(zip(outs, downs)):
            o = m * ch
            self.add_module(f"stage{s}", Stage([DiscBlock(i if d == 0 else o, o, down and d == 0, s == 0 and d == 0) for d in range(depth)]))
            i = o
        self.attention = Attention(outs[0] * ch)
        self.linear = sn(nn.Linear(i, 1))
        self.embedding = sn(nn.Embedding(classes, i))

    def forward(self, x, y):
        h = self.stem(x)
        for s in range(self.stages):
            h = getattr(self, f"stage{s}")(h)
            if s == 0:
                h = self.attention(h)
        h = F.relu(h).sum((2, 3))
        return self.linear(h)[:, 0] + (self.embedding(y) * h).sum(1)


class ClassNorm(nn.Module):
    def __init__(self, ch, classes):
        super().__init__()
        self.bn = nn.BatchNorm2d(ch, affine=False)
        self.gain, self.shift = nn.Embedding(classes, ch), nn.Embedding(classes, ch)
        nn.init.normal_(self.gain.weight, std=0.3), nn.init.normal_(self.shift.weight, std=0.3)

    def forward(self, x, y):
        return self.bn(x) * (1 + self.gain(y))[:, :, None, None] + self.shift(y)[:, :, None, None]


class SmallGStage(nn.Module):
    def __init__(self, i, o, classes):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(i, o, 3, padding=1, bias=False), ClassNorm(o, classes)

    def forward(self, x, y):
        return F.relu(self.norm(self.conv(F.interpolate(x, scale_factor=2)), y))


class SmallG(nn.Module):
    def __init__(self, classes, z, shared, widths, out):
        super().__init__()
        self.widths = widths
        self.embedding = nn.Embedding(classes, shared)
        self.linear = nn.Linear(z + shared, widths[0] * 16)
        i = widths[0]
        for s, o in enumerate(widths):
            self.add_module(f"stage{s}", SmallGStage(i, o, classes))
            i = o
        self.out = nn.Conv2d(i, out, 3, padding=1)

    def forward(self, z, y):
        h = self.linear(torch.cat([z, self.embedding(y)], 1)).view(-1, self.widths[0], 4, 4)
        for s in range(len(self.widths)):
            h = getattr(self, f"stage{s}")(h, y)
        return torch.tanh(self.out(h))


class SmallDStage(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv = sn(nn.Conv2d(i, o, 4, stride=2, padding=1))

    def forward(self, x):
        return F.leaky_relu(self.conv(x), 0.2)


class SmallD(nn.Module):
    def __init__(self, classes, widths, inp):
        super().__init__()
        self.stages, i = len(widths), inp
        for s, o in enumerate(widths):
            self.add_module(f"stage{s}", SmallDStage(i, o))
            i = o
        self.linear = sn(nn.Linear(i * 16, 1))
        self.embedding = sn(nn.Embedding(classes, i * 16))

    def forward(self, x, y):
        h = x
        for s in range(self.stages):
            h = getattr(self, f"stage{s}")(h)
        h = h.flatten(1)
        return self.linear(h)[:, 0] + (self.embedding(y) * h).sum(1)


def name_of(k):
    k = k.replace("parametrizations.weight.original", "weight")
    k = re.sub(r"parametrizations\.weight\.0\._u", "u", k)
    return re.sub(r"norm(\d*)\.bn\.", r"norm\1.", k)


def state(net):
    return {name_of(k): v.detach().clone().contiguous() for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}


def halve(net):
    """Rounds a state to 16-bit numbers, so that storing it loses nothing."""
    with torch.no_grad():
        for v in net.state_dict().values():
            v.copy_(v.half().to(v.dtype))
    return {k: v.half() for k, v in state(net).items()}


def buffers(net):
    trained = {name_of(k) for k, _ in net.named_parameters()}
    return {k: v for k, v in state(net).items() if k not in trained}


def put(out, name, tensors):
    """All values in one row, by name of the tensor: headers of hundreds of small tensors would take more space."""
    out[name] = torch.cat([tensors[k].flatten() for k in sorted(tensors)])


def moments(net, opt):
    names = {id(p): name_of(k) for k, p in net.named_parameters()}
    return {names[id(p)]: s["exp_avg"] for p, s in opt.state.items()}


def d_loss(kind, real, fake):
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def g_loss(kind, fake):
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def forward_case(name, g, d, zdim, classes, shape, n, after=True):
    """Two forward passes of each network in training, which update statistics, u and v, then evaluation."""
    out = {}
    g.train(), d.train()
    with torch.no_grad():
        g(torch.randn(8, zdim), torch.arange(8) % classes)  # moves the running statistics
        z, y, x = torch.randn(n, zdim), torch.arange(n) % classes, torch.rand(n, *shape) * 2 - 1
        put(out, "g", halve(g)), put(out, "d", halve(d))
        out["z"], out["y"], out["x"] = z, y, x.half()
        x = x.half().float()
        out["g_train"], out["d_train"] = g(z, y), d(x, y)
        if after:
            put(out, "g_buffers", buffers(g)), put(out, "d_buffers", buffers(d))
        g.eval(), d.eval()
        out["g_eval"], out["d_eval"] = g(z, y), d(x, y)
    save(name, out)


def adam_step(opt, eps, t):
    """Step `t` of Keras' Adam, which adds epsilon to the root of the uncorrected second moment."""
    opt.param_groups[0]["eps"] = eps / (1 - opt.param_groups[0]["betas"][1] ** t) ** 0.5
    opt.step()


def update_case(name, g, d, zdim, classes, shape, n, loss, lr, betas, eps, d_steps, decay, average_buffers):
    """One training step: `d_steps` updates of D on one real batch, one of G, one of the moving average."""
    out = {}
    g.train(), d.train()
    go = torch.optim.Adam(g.parameters(), lr, betas)
    do = torch.optim.Adam(d.parameters(), lr, betas)
    x, y = torch.rand(n, *shape) * 2 - 1, torch.arange(n) % classes
    zs = torch.randn(d_steps + 1, n, zdim)
    put(out, "g", halve(g)), put(out, "d", halve(d))
    g0 = state(g)
    out["x"], out["y"], out["z"] = x, y, zs
    for k in range(d_steps):
        with torch.no_grad():
            fake = g(zs[k], y)
        logits = d(torch.cat([fake, x]), torch.cat([y, y]))
        ld = d_loss(loss, logits[n:], logits[:n])
        do.zero_grad()
        ld.backward()
        adam_step(do, eps, k + 1)
        out[f"d_loss{k}"] = ld.detach()
    put(out, "d_after", state(d)), put(out, "d_moment", moments(d, do))
    for p in d.parameters():
        p.requires_grad_(False)
    lg = g_loss(loss, d(g(zs[d_steps], y), y))
    go.zero_grad()
    lg.backward()
    adam_step(go, eps, 1)
    out["g_loss"] = lg.detach()
    g1 = state(g)
    put(out, "g_after", g1), put(out, "g_moment", moments(g, go)), put(out, "d_buffers", buffers(d))
    averaged = g1.keys() if average_buffers else {name_of(k) for k, _ in g.named_parameters()}
    put(out, "ema", {k: decay * g0[k] + (1 - decay) * g1[k] if k in averaged else g1[k] for k in g1})
    save(name, out)


def diffaugment_case(name):
    """DiffAugment (Zhao et al. 2020, arXiv 2006.10738) with given random numbers."""
    n, c, h, w = 5, 3, 12, 8
    x = (torch.rand(n, c, h, w) * 2 - 1).requires_grad_(True)
    weight = torch.randn(n, c, h, w)
    r = {k: torch.rand(n) for k in ["brightness", "saturation", "contrast"]}
    sh, sw = int(h / 8 + 0.5), int(w / 8 + 0.5)
    r["ty"], r["tx"] = torch.randint(-sh, sh + 1, (n,)), torch.randint(-sw, sw + 1, (n,))
    ch, cw = int(h * 0.5 + 0.5), int(w * 0.5 + 0.5)
    r["cy"], r["cx"] = torch.randint(0, h + (1 - ch % 2), (n,)), torch.randint(0, w + (1 - cw % 2), (n,))
    r["cy"][0], r["cx"][0] = 0, w  # a box that lies half outside
    v = lambda t: t.view(-1, 1, 1, 1)
    a = x + (v(r["brightness"]) - 0.5)
    m = a.mean(1, keepdim=True)
    a = (a - m) * (v(r["saturation"]) * 2) + m
    m = a.mean((1, 2, 3), keepdim=True)
    a = (a - m) * (v(r["contrast"]) + 0.5) + m
    rows = []
    for i in range(n):
        p = F.pad(a[i], (sw, sw, sh, sh))
        ty, tx = int(r["ty"][i]) + sh, int(r["tx"][i]) + sw
        p = p[:, ty : ty + h, tx : tx + w]
        mask = torch.ones(h, w)
        gy = (torch.arange(ch) + r["cy"][i] - ch // 2).clamp(0, h - 1)
        gx = (torch.arange(cw) + r["cx"][i] - cw // 2).clamp(0, w - 1)
        mask[gy[:, None], gx[None, :]] = 0
        rows.append(p * mask)
    y = torch.stack(rows)
    (y * weight).sum().backward()
    out = {"x": x.detach(), "weight": weight, "y": y.detach(), "grad": x.grad}
    save(name, {**out, **{k: t.float() for k, t in r.items()}})


def loss_case(name):
    out = {}
    for kind in ["hinge", "non-saturating"]:
        real, fake = (torch.randn(16) * 2).requires_grad_(True), (torch.randn(16) * 2).requires_grad_(True)
        ld, lg = d_loss(kind, real, fake), g_loss(kind, fake)
        gr, gf = torch.autograd.grad(ld, [real, fake])
        out.update({f"{kind}/real": real.detach(), f"{kind}/fake": fake.detach(), f"{kind}/d": ld.detach(), f"{kind}/g": lg.detach()})
        out.update({f"{kind}/d_real": gr, f"{kind}/d_fake": gf, f"{kind}/g_fake": torch.autograd.grad(lg, fake)[0]})
    save(name, out)


def save(name, out):
    path = os.path.join(HERE, f"{name}.safetensors")
    save_file({k: v.detach().clone().contiguous() for k, v in out.items()}, path)
    print(name, len(out), os.path.getsize(path))


if __name__ == "__main__":
    torch.manual_seed(0), torch.set_num_threads(1)
    forward_case("biggan_forward", BigG(3, 4, 6, 4, 2, 3), BigD(3, 4, 2, 3), 6, 3, (3, 32, 32), 2)
    forward_case("biggan64_forward", BigG(2, 4, 1, 1, 1, 1, 64), BigD(2, 4, 1, 1, 64), 1, 2, (1, 64, 64), 2, after=False)
    update_case("biggan_update", BigG(3, 4, 4, 2, 1, 1), BigD(3, 4, 1, 1), 4, 3, (1, 32, 32), 3, "hinge", 2e-4, (0.5, 0.999), 1e-6, 2, 0.9, True)
    forward_case("small_forward", SmallG(3, 6, 4, [8, 6, 4], 1), SmallD(3, [4, 6, 8], 1), 6, 3, (1, 32, 32), 2)
    update_case("small_update", SmallG(3, 6, 4, [8, 6], 1), SmallD(3, [4, 6], 1), 6, 3, (1, 16, 16), 6, "non-saturating", 4e-4, (0.5, 0.99), 1e-8, 2, 0.9, False)
    diffaugment_case("diffaugment")
    loss_case("loss")
