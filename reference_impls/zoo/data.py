"""Small real data, and data that is made, as batches in a fixed order."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it


def batches(inputs: Tensor, targets: Tensor, size: int, generator: torch.Generator | None = None) -> list[tuple[Tensor, Tensor]]:
    """(inputs, targets) cut into batches of `size`; shuffled first if a generator is given."""
    if generator is not None:
        order = torch.randperm(len(inputs), generator=generator)
        inputs, targets = inputs[order], targets[order]
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Handwritten digits of scikit-learn: ((inputs, targets) to train on, the same to test on); 1,437 and 360 images.

    Inputs are (n, 1, 8, 8), standardized with the training images' mean and deviation; targets 0..9. Every fifth image is for testing.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    inputs = torch.from_numpy(found.images).float()[:, None]
    targets = torch.from_numpy(found.target).long()
    test = torch.arange(len(inputs)) % 5 == 0
    inputs = (inputs - inputs[~test].mean()) / inputs[~test].std()
    return (inputs[~test], targets[~test]), (inputs[test], targets[test])


def fashion_mnist(folder: Path = FASHION_MNIST) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Fashion-MNIST from its four gzipped IDX files: 60,000 images (n, 1, 28, 28) in [0, 1] to train on, 10,000 to test on.

    Raises:
        FileNotFoundError: the files are not there; the message says how they come.
    """

    def read(name: str) -> Tensor:
        path = folder / f"{name}.gz"
        if not path.exists():
            raise FileNotFoundError(f"{path}: not there. `make data` brings Fashion-MNIST")
        raw = gzip.decompress(path.read_bytes())
        # IDX: two zero bytes, the type (8 = unsigned byte), the number of dimensions, each dimension as big-endian int32
        dimensions = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
        return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(dimensions).copy())

    train, test = (
        (read(f"{part}-images-idx3-ubyte").float()[:, None] / 255, read(f"{part}-labels-idx1-ubyte").long()) for part in ("train", "t10k")
    )
    return train, test


def sequences(count: int, length: int, vocabulary: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Made-up text: token sequences (count, length) of a random Markov chain, and the same shifted by one as targets.

    Each token has three likely successors, so a network can learn to foretell the next one, but never with certainty.
    """
    successors = torch.rand(vocabulary, vocabulary, generator=generator).topk(3).indices
    tokens = torch.empty(count, length + 1, dtype=torch.long)
    tokens[:, 0] = torch.randint(vocabulary, (count,), generator=generator)
    for position in range(length):
        choice = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), count, replacement=True, generator=generator)
        tokens[:, position + 1] = successors[tokens[:, position], choice]
    return tokens[:, :-1], tokens[:, 1:]
