"""Goldens of gafi-onnx, made with PyTorch: `python3 export.py` writes the files beside this one (PyTorch 2.15, onnx 1.23, onnxscript
0.7, CPU).

Small generators and a classifier of the usual kinds, exported by torch.onnx.export, with what PyTorch computes for a few inputs
(NAME_io.safetensors), and bad_*.onnx: files that have to be refused.
"""

import os

import onnx
import torch
import torch.nn as nn
import torch.nn.functional as F
from onnx import TensorProto, helper
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))


class CondNorm(nn.Module):
    def __init__(self, ch, classes):
        super().__init__()
        self.bn, self.embed = nn.BatchNorm2d(ch, affine=False), nn.Embedding(classes, 2 * ch)
        nn.init.normal_(self.embed.weight, 0, 0.5)

    def forward(self, x, y):
        gain, bias = self.embed(y).chunk(2, 1)
        return self.bn(x) * (1 + gain[:, :, None, None]) + bias[:, :, None, None]


class Block(nn.Module):
    def __init__(self, i, o, classes):
        super().__init__()
        self.n1, self.n2 = CondNorm(i, classes), CondNorm(o, classes)
        self.c1, self.c2, self.skip = nn.Conv2d(i, o, 3, padding=1), nn.Conv2d(o, o, 3, padding=1), nn.Conv2d(i, o, 1)

    def forward(self, x, y):
        h = self.c1(F.interpolate(F.relu(self.n1(x, y)), scale_factor=2))
        return self.c2(F.relu(self.n2(h, y))) + self.skip(F.interpolate(x, scale_factor=2))


class Attention(nn.Module):
    def __init__(self, ch):
        super().__init__()
        self.q, self.k = nn.Conv2d(ch, ch // 4, 1), nn.Conv2d(ch, ch // 4, 1)
        self.v, self.o = nn.Conv2d(ch, ch // 2, 1), nn.Conv2d(ch // 2, ch, 1)

    def forward(self, x):
        n, c, h, w = x.shape
        q, k = self.q(x).flatten(2), F.max_pool2d(self.k(x), 2).flatten(2)
        v = F.max_pool2d(self.v(x), 2).flatten(2)
        map = torch.softmax(torch.bmm(q.transpose(1, 2), k), -1)
        return x + self.o(torch.bmm(v, map.transpose(1, 2)).view(n, c // 2, h, w))


class BigGan(nn.Module):
    """Latents and integer labels, conditional batch norm, attention, nearest upsampling, tanh."""

    def __init__(self, z=6, ch=8, classes=3):
        super().__init__()
        self.first, self.ch = nn.Linear(z, ch * 16), ch
        self.b1, self.attention, self.b2 = Block(ch, ch, classes), Attention(ch), Block(ch, ch // 2, classes)
        self.norm, self.last = nn.BatchNorm2d(ch // 2), nn.Conv2d(ch // 2, 3, 3, padding=1)

    def forward(self, z, y):
        h = self.b1(self.first(z).view(-1, self.ch, 4, 4), y)
        return torch.tanh(self.last(F.relu(self.norm(self.b2(self.attention(h), y)))))


class DcGan(nn.Module):
    """Latents and one-hot labels, transposed convolutions, sigmoid."""

    def __init__(self, z=5, classes=2, ch=8):
        super().__init__()
        self.net = nn.Sequential(
            nn.ConvTranspose2d(z + classes, 2 * ch, 4, bias=False), nn.BatchNorm2d(2 * ch), nn.ReLU(),
            nn.ConvTranspose2d(2 * ch, ch, 4, 2, 1, bias=False), nn.InstanceNorm2d(ch, affine=True), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(ch, 1, 3, 2, 1, output_padding=1), nn.Sigmoid(),
        )

    def forward(self, z, y):
        return self.net(torch.cat([z, y], 1)[:, :, None, None])


class Modulated(nn.Module):
    """Modulated convolution of StyleGAN2, scaling features rather than weights."""

    def __init__(self, ch, w, up):
        super().__init__()
        self.weight, self.style = nn.Parameter(torch.randn(ch, ch, 3, 3) / (9 * ch) ** 0.5), nn.Linear(w, ch)
        self.up = up

    def forward(self, x, w):
        style = 1 + self.style(w)
        x = x * style[:, :, None, None]
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        norm = torch.rsqrt(((self.weight[None] * style[:, None, :, None, None]) ** 2).sum([2, 3, 4]) + 1e-8)
        return F.leaky_relu(F.conv2d(x, self.weight, padding=1) * norm[:, :, None, None], 0.2) * 2**0.5


class StyleGan(nn.Module):
    """Latents and integer labels, mapping network, modulated convolutions, bilinear upsampling, no bound of the output."""

    def __init__(self, z=6, ch=8, classes=4):
        super().__init__()
        self.embed, self.map = nn.Embedding(classes, z), nn.Sequential(nn.Linear(2 * z, z), nn.LeakyReLU(0.2), nn.Linear(z, z))
        self.const = nn.Parameter(torch.randn(1, ch, 4, 4))
        self.layers = nn.ModuleList([Modulated(ch, z, False), Modulated(ch, z, True), Modulated(ch, z, True)])
        self.rgb = nn.Conv2d(ch, 3, 1)

    def forward(self, z, y):
        z = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        w, h = self.map(torch.cat([z, F.normalize(self.embed(y), dim=1)], 1)), self.const.expand(z.shape[0], -1, -1, -1)
        for layer in self.layers:
            h = layer(h, w)
        return self.rgb(h) / 2


class Classifier(nn.Module):
    """Logits, and what the last layer sees."""

    def __init__(self, classes=3, ch=8):
        super().__init__()
        self.c1, self.n1 = nn.Conv2d(3, ch, 3, padding=1, bias=False), nn.BatchNorm2d(ch)
        self.depth, self.c2 = nn.Conv2d(ch, ch, 3, padding=1, groups=ch), nn.Conv2d(ch, 2 * ch, 3, 2, 1)
        self.last = nn.Linear(2 * ch, classes)

    def forward(self, x):
        h = F.relu(self.n1(self.c1(x)))
        h = F.relu6(self.c2(F.avg_pool2d(h + F.hardswish(self.depth(h)), 2)))
        features = F.adaptive_avg_pool2d(h, 1).flatten(1)
        return 4 * self.last(features), features


class Flat(nn.Module):
    """Latents, one-hot labels and a scalar to flat images from 0 to 1."""

    def __init__(self, z=5, classes=3, pixels=36):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(z + classes, 24), nn.BatchNorm1d(24), nn.LeakyReLU(0.2), nn.Linear(24, pixels), nn.Sigmoid()
        )

    def forward(self, label, noise, psi):
        return self.net(torch.cat([label, psi * noise], 1))


class ChannelsLast(nn.Module):
    """Latents and labels of 32 bits, upsampling before convolutions, channels last; nothing sums along a row."""

    def __init__(self, z=6, ch=8, classes=3):
        super().__init__()
        self.embed, self.first, self.ch = nn.Embedding(classes, z), nn.Linear(z, ch * 9), ch
        self.net = nn.Sequential(
            nn.BatchNorm2d(ch), nn.Upsample(scale_factor=2), nn.Conv2d(ch, ch, 3, padding=1), nn.BatchNorm2d(ch),
            nn.LeakyReLU(0.2), nn.Upsample(scale_factor=2), nn.Conv2d(ch, ch // 2, 3, padding=1), nn.ReLU(),
            nn.Conv2d(ch // 2, 3, 3, padding=1), nn.Tanh(),
        )

    def forward(self, z, y):
        return self.net(self.first(z * self.embed(y)).view(-1, self.ch, 3, 3)).permute(0, 2, 3, 1)


class FlatClassifier(nn.Module):
    """Flat images and a temperature to logits."""

    def __init__(self, classes=3, pixels=36):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(pixels, 16), nn.ReLU(), nn.Linear(16, classes))

    def forward(self, x, temperature):
        return self.net(x) / temperature


def settle(net):
    """Running statistics other than those of a network that saw nothing."""
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return net.eval()


def write(name, net, inputs, outputs, dynamic=True, external=False, **options):
    given = tuple(inputs.values())
    with torch.no_grad():
        gave = settle(net)(*given)
    shapes = tuple({0: torch.export.Dim.DYNAMIC} if each.shape[:1] == given[0].shape[:1] else {} for each in given) if dynamic else None
    program = torch.onnx.export(
        net, given, input_names=list(inputs), output_names=outputs, dynamic_shapes=shapes, verbose=False, **options
    )
    model = program.model_proto
    # What the exporter notes of its source: paths of this machine.
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for thing in [*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer]:
        del thing.metadata_props[:]
    path = os.path.join(HERE, f"{name}.onnx")
    if external and os.path.exists(f"{path}.data"):
        os.remove(f"{path}.data")  # it would be appended to
    onnx.save(model, path, save_as_external_data=external, location=f"{name}.onnx.data", size_threshold=0)
    gave = gave if isinstance(gave, tuple) else (gave,)
    io = {key: value.contiguous() for key, value in [*inputs.items(), *zip(outputs, gave)]}
    save_file(io, os.path.join(HERE, f"{name}_io.safetensors"))


def bad(name, nodes, inputs=None, domain=""):
    """A generator of (N, 4) latents and (N, 1) labels whose images (N, 1, 2, 2) come of `nodes`."""
    inputs = inputs or [("z", TensorProto.FLOAT, ["N", 4]), ("y", TensorProto.FLOAT, ["N", 4])]
    graph = helper.make_graph(
        [helper.make_node("Add", ["z", "y"], ["sum"]), *nodes],
        name,
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, None)],
        [helper.make_tensor("shape", TensorProto.INT64, [4], [-1, 1, 2, 2])],
    )
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), os.path.join(HERE, f"bad_{name}.onnx"))


def main():
    torch.manual_seed(0)
    n = 3
    y = torch.tensor([2, 0, 1])
    write("biggan", BigGan(), {"z": torch.randn(n, 6), "y": y}, ["images"])
    torch.manual_seed(1)
    dc = {"noise": torch.randn(2, 5), "label": F.one_hot(torch.tensor([1, 0]), 2).float()}
    write("dcgan", DcGan(), dc, ["out"], dynamic=False, external=True)
    torch.manual_seed(2)
    write("stylegan", StyleGan(), {"z": torch.randn(n, 6), "y": y + 1}, ["images"], opset_version=18)
    torch.manual_seed(3)
    pixels = torch.randint(0, 256, (n, 3, 16, 16)).float() / 255
    mean, std = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([0.2, 0.25, 0.3])[:, None, None]
    write("classifier", Classifier(), {"x": (pixels - mean) / std}, ["logits", "features"])

    torch.manual_seed(4)
    flat = {"label": F.one_hot(y, 3).float(), "noise": torch.randn(n, 5), "psi": torch.tensor(0.7)}
    write("flat", Flat(), flat, ["out"])
    torch.manual_seed(5)
    write("channels_last", ChannelsLast(), {"z": torch.randn(n, 6), "y": y.int()}, ["images"])
    torch.manual_seed(6)
    flat = {"x": torch.randint(0, 256, (n, 36)).float() / 255, "temperature": torch.tensor([0.5])}
    write("flat_classifier", FlatClassifier(), flat, ["logits"])

    reshape = helper.make_node("Reshape", ["h", "shape"], ["images"])
    bad("random", [helper.make_node("RandomNormalLike", ["sum"], ["noise"]), helper.make_node("Add", ["sum", "noise"], ["h"]), reshape])
    bad("unknown", [helper.make_node("Wobble", ["sum"], ["h"], domain="com.example"), reshape], domain="com.example")
    bad("nan", [helper.make_node("Neg", ["sum"], ["less"]), helper.make_node("Relu", ["less"], ["zero"]),
                helper.make_node("Log", ["zero"], ["h"]), reshape])
    bad("shape", [helper.make_node("Identity", ["sum"], ["images"])])
    bad("deaf", [helper.make_node("Mul", ["y", "y"], ["h"]), reshape])


if __name__ == "__main__":
    main()
