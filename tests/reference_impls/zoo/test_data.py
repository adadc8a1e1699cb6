"""The small data: what is in it, in which shape, and always the same."""

import gzip
import struct

import pytest
import torch

from reference_impls.zoo import data


def test_digits_are_split_without_overlap_and_standardized():
    (train, train_targets), (test, test_targets) = data.digits()
    assert train.shape == (1437, 1, 8, 8)
    assert test.shape == (360, 1, 8, 8)
    assert sorted(set(train_targets.tolist())) == list(range(10)) == sorted(set(test_targets.tolist()))
    torch.testing.assert_close(train.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std(), torch.tensor(1.0), atol=1e-5, rtol=0)


def test_batches_hold_every_example_once_and_pairs_stay_together():
    inputs, targets = torch.arange(10.0), torch.arange(10)
    cut = data.batches(inputs, targets, 4, torch.Generator().manual_seed(0))
    assert [len(x) for x, _ in cut] == [4, 4, 2]
    assert all(torch.equal(x.long(), y) for x, y in cut)
    assert sorted(torch.cat([y for _, y in cut]).tolist()) == list(range(10))
    assert torch.cat([y for _, y in cut]).tolist() != list(range(10))


def test_fashion_mnist_is_read_from_idx_files(tmp_path):
    for part, count in (("train", 3), ("t10k", 2)):
        pixels = bytes(range(count * 4))
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(struct.pack(">BBBBiii", 0, 0, 8, 3, count, 2, 2) + pixels))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(struct.pack(">BBBBi", 0, 0, 8, 1, count) + bytes([7] * count))
        )
    (train, targets), (test, _) = data.fashion_mnist(tmp_path)
    assert train.shape == (3, 1, 2, 2)
    assert test.shape == (2, 1, 2, 2)
    torch.testing.assert_close(train[1, 0], torch.tensor([[4.0, 5.0], [6.0, 7.0]]) / 255)
    assert targets.tolist() == [7, 7, 7]


def test_fashion_mnist_that_is_absent_says_how_it_comes(tmp_path):
    with pytest.raises(FileNotFoundError, match="make data"):
        data.fashion_mnist(tmp_path)


def test_made_up_text_has_few_successors_and_targets_are_the_next_tokens():
    inputs, targets = data.sequences(200, 20, 8, torch.Generator().manual_seed(0))
    assert inputs.shape == targets.shape == (200, 20)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    for token in range(8):
        assert len(targets[inputs == token].unique()) == 3
