"""Golden values for the import of StudioGAN generators: `python3 studiogan.py` writes studiogan_* next to this file (PyTorch
2.15, CPU).

The networks follow the published structure and tensor names of PyTorch-StudioGAN's big_resnet and big_resnet_deep_studiogan:
relu, spectral norm on everything but the embedding, batch norms that add 1e-4, conditions (class, latent).
"""

import os

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.nn.utils import spectral_norm as sn

HERE = os.path.dirname(os.path.abspath(__file__))
WIDTHS = {32: [4, 4, 4, 4], 64: [16, 8, 4, 2, 1], 128: [16, 16, 8, 4, 2, 1]}


def conv(i, o, k, bias=True):
    return sn(nn.Conv2d(i, o, k, padding=k // 2, bias=bias), eps=1e-6)


def linear(i, o, bias=True):
    return sn(nn.Linear(i, o, bias=bias), eps=1e-6)


class CondNorm(nn.Module):
    def __init__(self, cond, ch):
        super().__init__()
        self.bn = nn.BatchNorm2d(ch, eps=1e-4, affine=False)
        self.gain, self.bias = linear(cond, ch, False), linear(cond, ch, False)

    def forward(self, x, c):
        return self.bn(x) * (1 + self.gain(c))[:, :, None, None] + self.bias(c)[:, :, None, None]


class Attention(nn.Module):
    def __init__(self, ch):
        super().__init__()
        self.conv1x1_theta, self.conv1x1_phi = conv(ch, ch // 8, 1, False), conv(ch, ch // 8, 1, False)
        self.conv1x1_g, self.conv1x1_attn = conv(ch, ch // 2, 1, False), conv(ch // 2, ch, 1, False)
        self.sigma = nn.Parameter(torch.full((1,), 0.7))

    def forward(self, x, _):
        n, c, h, w = x.shape
        q = self.conv1x1_theta(x).view(n, c // 8, h * w)
        k = F.max_pool2d(self.conv1x1_phi(x), 2).view(n, c // 8, h * w // 4)
        v = F.max_pool2d(self.conv1x1_g(x), 2).view(n, c // 2, h * w // 4)
        a = torch.softmax(q.transpose(1, 2) @ k, -1)
        return x + self.sigma * self.conv1x1_attn((v @ a.transpose(1, 2)).view(n, c // 2, h, w))


class Block(nn.Module):
    """A block of big_resnet."""

    def __init__(self, i, o, cond):
        super().__init__()
        self.bn1, self.bn2 = CondNorm(cond, i), CondNorm(cond, o)
        self.conv2d0, self.conv2d1, self.conv2d2 = conv(i, o, 1), conv(i, o, 3), conv(o, o, 3)

    def forward(self, x, c):
        h = self.conv2d1(F.interpolate(F.relu(self.bn1(x, c)), scale_factor=2))
        h = self.conv2d2(F.relu(self.bn2(h, c)))
        return h + self.conv2d0(F.interpolate(x, scale_factor=2))


class DeepBlock(nn.Module):
    """A block of big_resnet_deep_studiogan."""

    def __init__(self, i, o, cond, up):
        super().__init__()
        h, self.up = i // 4, up
        self.bn1, self.bn2, self.bn3, self.bn4 = (CondNorm(cond, ch) for ch in (i, h, h, h))
        self.conv2d0, self.conv2d1, self.conv2d2 = conv(i, o, 1), conv(i, h, 1), conv(h, h, 3)
        self.conv2d3, self.conv2d4 = conv(h, h, 3), conv(h, o, 1)

    def forward(self, x, c):
        h = F.relu(self.bn2(self.conv2d1(F.relu(self.bn1(x, c))), c))
        if self.up:
            h, x = F.interpolate(h, scale_factor=2), F.interpolate(x, scale_factor=2)
        h = self.conv2d3(F.relu(self.bn3(self.conv2d2(h), c)))
        return self.conv2d4(F.relu(self.bn4(h, c))) + self.conv2d0(x)


class Generator(nn.Module):
    def __init__(self, size, ch, z, shared, classes, attention, depth=None):
        """`depth` is None for big_resnet; attention follows the stages in `attention`, counted from 1."""
        super().__init__()
        w = [m * ch for m in WIDTHS[size]]
        self.width, self.deep = w[0], depth is not None
        self.part = z if self.deep else z // len(w)
        cond = self.part + shared
        self.shared = nn.Embedding(classes, shared)
        self.linear0 = linear(cond if self.deep else self.part, w[0] * 16)
        blocks = []
        for s, (i, o) in enumerate(zip(w, w[1:])):
            if self.deep:
                last = depth - 1
                blocks += [DeepBlock(i, o if d == last else i, cond, d == last) for d in range(depth)]
            else:
                blocks += [Block(i, o, cond)]
            if s + 1 in attention:
                blocks += [Attention(o)]
        self.blocks = nn.ModuleList([nn.ModuleList([block]) for block in blocks])
        self.bn4 = nn.BatchNorm2d(w[-1], eps=1e-4)
        self.conv2d5 = conv(w[-1], 3, 3)

    def forward(self, z, y):
        e = self.shared(y)
        parts = list(torch.split(z, self.part, 1))
        h = torch.cat([e, z], 1) if self.deep else parts.pop(0)
        c = h
        h = self.linear0(h).view(-1, self.width, 4, 4)
        for (block,) in self.blocks:
            if not self.deep and isinstance(block, Block):
                c = torch.cat([e, parts.pop(0)], 1)
            h = block(h, c)
        return torch.tanh(self.conv2d5(F.relu(self.bn4(h))))


@torch.no_grad()
def randomise(g, classes, z):
    """Weights that give images with contrast; buffers are perturbed, so that an import that ignores the stored ones fails."""
    for name, p in g.named_parameters():
        torch.nn.init.normal_(p, std=0.7)
    for _ in range(30):
        g(torch.randn(8, z), torch.randint(classes, (8,)))
    for name, b in g.named_buffers():
        if "running_mean" in name:
            b.add_(0.1 * torch.randn_like(b))
        elif "running_var" in name:
            b.mul_(torch.rand_like(b) + 0.5)
        elif name.endswith(("weight_u", "weight_v")):
            b.copy_(F.normalize(b + 0.3 * torch.randn_like(b) / b.numel() ** 0.5, dim=0))
    # Small, so that the epsilon added to it has an effect.
    next(b for name, b in g.named_buffers() if name.endswith("running_var"))[0] = 1e-3
    # Neither flat nor saturated.
    out = []
    hook = g.conv2d5.register_forward_hook(lambda _, __, h: out.append(h))
    g.eval()(torch.randn(32, z), torch.randint(classes, (32,)))
    hook.remove()
    g.bn4.weight.mul_(0.7 / out[0].std()), g.bn4.bias.mul_(0.7 / out[0].std())
    g.conv2d5.bias.mul_(0.3)


def make(name, n, half=False, **config):
    g = Generator(**config)
    z, classes = config["z"], config["classes"]
    randomise(g, classes, z)
    if half:
        # Stored in 16 bits; the images come from the rounded weights.
        for t in [*g.parameters(), *g.buffers()]:
            if t.is_floating_point():
                t.data = t.data.half().float()
    g.eval()
    latents, labels = torch.randn(n, z), torch.arange(n) % classes
    with torch.no_grad():
        images = g(latents, labels)
    print(name, "images: mean %.3f, std %.3f, beyond 0.99: %.3f" % (
        images.mean(), images.std(), (images.abs() > 0.99).float().mean()))
    state = g.state_dict()
    small = {k: v.half() if half and v.is_floating_point() else v for k, v in state.items()}
    save_file({k: v.contiguous() for k, v in small.items()}, os.path.join(HERE, f"{name}.safetensors"))
    io = {"z": latents, "y": labels.int(), "images": images}
    save_file(io, os.path.join(HERE, f"{name}_io.safetensors"))
    return g


def main():
    torch.manual_seed(11)
    make("studiogan_deep", 1, size=32, ch=4, z=3, shared=2, classes=2, attention=[2], depth=2)
    make("studiogan_deep64", 1, half=True, size=64, ch=4, z=2, shared=1, classes=2, attention=[3], depth=2)
    g = make("studiogan_biggan", 2, size=32, ch=4, z=8, shared=3, classes=3, attention=[2])
    # As a training script saves it: with DataParallel's names and the optimiser's state.
    optimizer = torch.optim.Adam(g.conv2d5.parameters(), betas=(0.0, 0.999))
    g(torch.randn(2, 8), torch.tensor([0, 1])).sum().backward()
    before = {"module." + k: v.clone() for k, v in g.state_dict().items()}
    optimizer.step()
    torch.save({"state_dict": before, "optimizer": optimizer.state_dict(), "step": 700, "best_fid": None},
               os.path.join(HERE, "studiogan_biggan.pth"))


if __name__ == "__main__":
    main()
