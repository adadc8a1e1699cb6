"""Small networks of every common shape, for tests and demonstrations.

Each function takes `generator`: with it the initialization follows from the generator's state and leaves the global one alone;
without it PyTorch's global random state decides, as usual.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _seeded(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Lets a generator decide what torch.nn draws from the global random state."""

    @wraps(build)
    def seeded(*args, generator: torch.Generator | None = None, **kwargs) -> nn.Module:
        if generator is None:
            return build(*args, **kwargs)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(*args, **kwargs)

    return seeded


@_seeded
def mlp(sizes: Sequence[int] = (64, 16, 10)) -> nn.Sequential:
    """Linear layers of the given sizes, from inputs to classes, with ReLU between them; images are flattened."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inward, outward in pairwise(sizes):
        layers += [nn.Linear(inward, outward), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@_seeded
def lenet_300_100(inputs: int = 64, classes: int = 10) -> nn.Sequential:
    """The fully connected network of two hidden layers with 300 and 100 neurons."""
    return mlp([inputs, 300, 100, classes])


class ConvNet(nn.Module):
    """Convolution, batch norm, ReLU, and pooling after every second of them; then a classifier of two layers, as in VGG."""

    def __init__(self, widths: Sequence[int], channels: int, classes: int, image: int):
        super().__init__()
        layers: list[nn.Module] = []
        for place, (inward, outward) in enumerate(zip([channels, *widths[:-1]], widths, strict=True), 1):
            layers += [nn.Conv2d(inward, outward, 3, padding=1), nn.BatchNorm2d(outward), nn.ReLU()]
            if place % 2 == 0:
                layers.append(nn.MaxPool2d(2))
                image //= 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(widths[-1] * image**2, 4 * widths[-1]), nn.ReLU(), nn.Linear(4 * widths[-1], classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


@_seeded
def convnet(widths: Sequence[int] = (8, 8, 16, 16), channels: int = 1, classes: int = 10, image: int = 8) -> ConvNet:
    """A small VGG for square images of `image` pixels a side."""
    return ConvNet(widths, channels, classes, image)


class ResidualBlock(nn.Module):
    """Two convolutions around an identity, or around a 1 x 1 convolution where the size changes."""

    def __init__(self, inward: int, outward: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inward, outward, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outward)
        self.conv2 = nn.Conv2d(outward, outward, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outward)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inward != outward:
            self.shortcut = nn.Sequential(nn.Conv2d(inward, outward, 1, stride, bias=False), nn.BatchNorm2d(outward))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """The residual network of small images: a stem, three stages, global average pooling."""

    def __init__(self, per_stage: int, width: int, channels: int, classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = [width * 2**stage for stage in range(3) for _ in range(per_stage)]
        before = [width, *widths[:-1]]
        self.blocks = nn.ModuleList(ResidualBlock(a, b, 1 if a == b else 2) for a, b in zip(before, widths, strict=True))
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for block in self.blocks:
            x = block(x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


@_seeded
def resnet8(width: int = 8, channels: int = 1, classes: int = 10) -> ResNet:
    """Three residual blocks of `width`, 2 `width` and 4 `width` channels: eight layers with stem and classifier."""
    return ResNet(1, width, channels, classes)


class DenseLayer(nn.Module):
    """Batch norm, ReLU, convolution; its output is put behind its input."""

    def __init__(self, inward: int, growth: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(inward)
        self.conv = nn.Conv2d(inward, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], 1)


class DenseNet(nn.Module):
    """One dense block between a stem and a classifier."""

    def __init__(self, stem: int, growth: int, layers: int, channels: int, classes: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(DenseLayer(stem + growth * place, growth) for place in range(layers))
        self.bn = nn.BatchNorm2d(stem + growth * layers)
        self.fc = nn.Linear(stem + growth * layers, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1).flatten(1))


@_seeded
def densenet_small(stem: int = 8, growth: int = 4, layers: int = 3, channels: int = 1, classes: int = 10) -> DenseNet:
    """Every layer reads all earlier ones, by concatenation."""
    return DenseNet(stem, growth, layers, channels, classes)


class InvertedResidual(nn.Module):
    """Expansion by a 1 x 1 convolution, a depthwise one, and a linear 1 x 1 one; around an identity where sizes allow."""

    def __init__(self, inward: int, outward: int, stride: int, expansion: int):
        super().__init__()
        hidden = inward * expansion
        self.expand = nn.Sequential(nn.Conv2d(inward, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(hidden, outward, 1, bias=False), nn.BatchNorm2d(outward))
        self.residual = stride == 1 and inward == outward

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """Inverted residuals between a stem and a classifier, as in MobileNetV2."""

    def __init__(self, width: int, channels: int, classes: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU6())
        sizes = [(width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1)]
        self.blocks = nn.ModuleList(InvertedResidual(inward, outward, stride, 2) for inward, outward, stride in sizes)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


@_seeded
def mobilenet_small(width: int = 8, channels: int = 1, classes: int = 10) -> MobileNet:
    """Three inverted residuals; the first and the last keep their size and have a shortcut."""
    return MobileNet(width, channels, classes)


class Attention(nn.Module):
    """Multi-head attention; with fewer key-value heads than heads, each is shared by as many queries (grouped queries)."""

    def __init__(self, width: int, heads: int, key_value_heads: int | None = None, causal: bool = False, bias: bool = True):
        super().__init__()
        self.heads, self.key_value_heads = heads, key_value_heads or heads
        self.head_dim, self.causal = width // heads, causal
        self.query = nn.Linear(width, self.heads * self.head_dim, bias=bias)
        self.key = nn.Linear(width, self.key_value_heads * self.head_dim, bias=bias)
        self.value = nn.Linear(width, self.key_value_heads * self.head_dim, bias=bias)
        self.output = nn.Linear(self.heads * self.head_dim, width, bias=bias)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        # (batch, heads, tokens, head_dim)
        query, key, value = (layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        if (shared := self.heads // self.key_value_heads) > 1:
            key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.output(mixed.transpose(1, 2).flatten(2))


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding: the first half of a head's dimensions turned against the second, by angles per position."""
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat([-second, first], -1) * sine


def rotation(tokens: int, head_dim: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle of every position and dimension, each of shape (tokens, head_dim)."""
    speed = base ** (-torch.arange(0, head_dim, 2) / head_dim)
    angle = torch.outer(torch.arange(tokens), speed).repeat(1, 2)
    return angle.cos(), angle.sin()


class MLP(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class GatedMLP(nn.Module):
    """Two parallel linear layers, one of them the gate of the other, and one back."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class TransformerBlock(nn.Module):
    """Attention and an MLP, each behind a norm and around an identity."""

    def __init__(self, norm: Callable[[], nn.Module], attention: Attention, mlp: nn.Module):
        super().__init__()
        self.attention_norm, self.attention = norm(), attention
        self.mlp_norm, self.mlp = norm(), mlp

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation)
        return x + self.mlp(self.mlp_norm(x))


class VisionTransformer(nn.Module):
    """Patches as tokens, a class token, learned positions; classified by the class token."""

    def __init__(self, width: int, layers: int, heads: int, channels: int, classes: int, image: int, patch: int):
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, (image // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.ModuleList(
            TransformerBlock(lambda: nn.LayerNorm(width), Attention(width, heads), MLP(width, 4 * width)) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


@_seeded
def vit_small(
    width: int = 32, layers: int = 2, heads: int = 4, channels: int = 1, classes: int = 10, image: int = 8, patch: int = 2
) -> VisionTransformer:
    """A vision transformer for square images of `image` pixels a side."""
    return VisionTransformer(width, layers, heads, channels, classes, image, patch)


class Llama(nn.Module):
    """A decoder of the Llama kind: RMS norm, rotary positions, grouped queries, gated MLP. Takes token ids, gives logits."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, key_value_heads: int, hidden: int, tied: bool):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                lambda: nn.RMSNorm(width, eps=1e-5),
                Attention(width, heads, key_value_heads, causal=True, bias=False),
                GatedMLP(width, hidden),
            )
            for _ in range(layers)
        )
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head_dim = width // heads
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        angles = tuple(table.to(x) for table in rotation(ids.shape[1], self.head_dim))
        for block in self.blocks:
            x = block(x, angles)
        return self.head(self.norm(x))


@_seeded
def llama_small(
    vocabulary: int = 64,
    width: int = 32,
    layers: int = 2,
    heads: int = 4,
    key_value_heads: int = 2,
    hidden: int | None = None,
    tied: bool = False,
) -> Llama:
    """A small Llama; `tied` shares the embedding with the output layer, `hidden` defaults to 2 `width`."""
    return Llama(vocabulary, width, layers, heads, key_value_heads, hidden or 2 * width, tied)


class GPT(nn.Module):
    """A decoder of the GPT-2 kind: layer norm, learned positions, GELU, output tied to the embedding."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, context: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(
            TransformerBlock(lambda: nn.LayerNorm(width), Attention(width, heads, causal=True), MLP(width, 4 * width))
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@_seeded
def gpt_small(vocabulary: int = 64, width: int = 32, layers: int = 2, heads: int = 4, context: int = 32) -> GPT:
    """A small GPT for sequences of at most `context` tokens."""
    return GPT(vocabulary, width, layers, heads, context)
