"""Deep Compression (han2016deep): the paper's own figure by hand, k-means and Huffman against independent ones, and the claim in small."""

import itertools
import math
from collections import Counter

import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import HoldMasks, accuracy, fit, momentum_sgd
from reference_impls.fusion import deep_compression
from reference_impls.fusion.deep_compression import Coded, ShareWeights, cluster, decode, encode, huffman, relative_positions
from reference_impls.zoo import data, networks

WEIGHTS = torch.tensor([[2.09, -0.98, 1.48, 0.09], [0.05, -0.14, -1.08, 2.12], [-0.91, 1.92, 0.0, -1.03], [1.87, 0.0, 1.53, 1.49]])
NUMBERS = torch.tensor([[3, 0, 2, 1], [1, 1, 0, 3], [0, 3, 1, 0], [3, 1, 2, 2]])


def test_sharing_by_hand():
    # centroids start at -1.08, -0.01, 1.05, 2.12 and end at the means of
    # (-0.98, -1.08, -0.91, -1.03) = -1; (0.09, 0.05, -0.14, 0, 0) = 0; (1.48, 1.53, 1.49) = 1.5; (2.09, 2.12, 1.92, 1.87) = 2
    values, numbers = cluster(WEIGHTS.flatten(), 4)
    torch.testing.assert_close(values, torch.tensor([-1.0, 0.0, 1.5, 2.0]))
    assert torch.equal(numbers.view(4, 4), NUMBERS)


def test_fine_tuning_by_hand():
    # the gradients of a cluster are summed: cluster 0: -0.01 - 0.02 - 0.01 + 0.01 = -0.03; 1: 0.02 - 0.01 + 0.01 + 0.04 - 0.02 = 0.04;
    # 2: 0.03 + 0.01 - 0.02 = 0.02; 3: -0.03 + 0.12 + 0.02 - 0.07 = 0.04. One step of size 1: -0.97, -0.04, 1.48, 1.96.
    gradient = torch.tensor(
        [[-0.03, -0.01, 0.03, 0.02], [-0.01, 0.01, -0.02, 0.12], [-0.01, 0.02, 0.04, 0.01], [-0.07, -0.02, 0.01, -0.02]]
    )
    layer = nn.Linear(4, 4, bias=False)
    layer.weight.data = WEIGHTS.clone()
    share = ShareWeights({"weight": (*cluster(WEIGHTS.flatten(), 4)[:1], NUMBERS)})
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    share.start(layer, optimizer)
    layer.weight.grad = gradient.clone()
    share.after_backward(layer, optimizer)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([-0.97, -0.04, 1.48, 1.96])[NUMBERS])


@pytest.mark.parametrize("count", [1, 3, 7])
def test_clusters_are_those_of_lloyds_algorithm_from_evenly_spaced_centroids(count):
    weights = torch.randn(300, generator=torch.Generator().manual_seed(count)).double()
    start = torch.linspace(weights.min(), weights.max(), count).numpy()[:, None]
    lloyd = KMeans(count, init=start, n_init=1, max_iter=300, tol=0).fit(weights.numpy()[:, None])
    values, numbers = cluster(weights, count, rounds=300)
    torch.testing.assert_close(values, torch.from_numpy(lloyd.cluster_centers_[:, 0]))
    assert numbers.tolist() == lloyd.labels_.tolist()


def test_a_centroid_without_weights_stays_where_it_is():
    # centroids 0, 5, 10: nothing is near 5
    values, numbers = cluster(torch.tensor([0.0, 1.0, 9.0, 10.0]), 3)
    assert values.tolist() == [0.5, 5.0, 9.5]
    assert numbers.tolist() == [0, 0, 2, 2]


def test_fine_tuning_follows_the_gradient_of_the_codebook_itself():
    # an explicit codebook, trained by autograd, with momentum
    torch.manual_seed(0)
    inputs, targets = torch.randn(20, 4), torch.randint(4, (20,))
    layer = nn.Linear(4, 4, bias=False)
    numbers = NUMBERS.clone()
    numbers[0, 0] = -1  # pruned
    values = torch.tensor([-1.0, 0.2, 0.5, 2.0])
    fit(layer, [(inputs, targets)], 5, [ShareWeights({"weight": (values, numbers)})])
    codebook = values.clone().requires_grad_()
    optimizer = torch.optim.SGD([codebook], lr=0.1, momentum=0.9)
    for _ in range(5):
        weight = codebook[numbers.clamp(min=0)] * (numbers >= 0)
        optimizer.zero_grad()
        nn.functional.cross_entropy(inputs @ weight.T, targets).backward()
        optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), codebook.detach()[numbers.clamp(min=0)] * (numbers >= 0))


def test_each_layer_has_at_most_the_asked_number_of_values_and_a_zero():
    (inputs, targets), _ = data.digits()
    batches = data.batches(inputs[:128], targets[:128], 32)
    trained = []

    def train(network, callbacks):
        trained.append([type(callback) for callback in callbacks])
        return fit(network, batches, 2, callbacks)

    model = networks.convnet(generator=torch.Generator().manual_seed(0))
    pruned = deep_compression.prune(model, batches, 0.6, train=train, rounds=2, bits=3)
    assert trained == [[HoldMasks], [HoldMasks], [ShareWeights, HoldMasks]]
    counts = [len(weight[weight != 0].unique()) for weight in prunable_weights(pruned).values()]
    assert max(counts) == 7
    zeros = sum(int((weight == 0).sum()) for weight in prunable_weights(pruned).values())
    assert zeros == round(0.6 * sum(weight.numel() for weight in prunable_weights(pruned).values()))


def test_huffman_by_hand():
    # a b c d with frequencies 5, 2, 1, 1: c and d join to 2, with b to 4, with a to 9: lengths 1, 2, 3, 3, so 5 + 4 + 3 + 3 = 15 bits
    code = huffman([0] * 5 + [1] * 2 + [2] + [3])
    assert [len(code[symbol]) for symbol in range(4)] == [1, 2, 3, 3]
    assert huffman([7, 7, 7]) == {7: "0"}
    assert huffman([]) == {}


@pytest.mark.parametrize("seed", range(5))
def test_huffman_is_prefix_free_within_a_bit_of_the_entropy_and_the_best_of_all(seed):
    generator = torch.Generator().manual_seed(seed)
    symbols = torch.multinomial(torch.rand(5, generator=generator) ** seed, 400, replacement=True, generator=generator).tolist()
    code, counts = huffman(symbols), Counter(symbols)
    assert not any(a != b and b.startswith(a) for a in code.values() for b in code.values())
    bits = sum(len(code[symbol]) for symbol in symbols)
    entropy = -sum(count * math.log2(count / 400) for count in counts.values())
    assert entropy <= bits < entropy + 400
    # brute force over all lengths that a prefix code can have (Kraft's inequality)
    best = min(
        sum(count * length for count, length in zip(counts.values(), lengths, strict=True))
        for lengths in itertools.product(range(1, 5), repeat=len(counts))
        if sum(2.0**-length for length in lengths) <= 1
    )
    assert bits == best


def test_positions_by_hand():
    # the paper's figure: weights at 1, 4 and 15, three bits: 15 is too far from 4, so a filler goes on 12
    # zeros skipped: 1; then 2; then 7 and the filler, 2 more and the weight
    assert relative_positions([1, 4, 15], 7) == [(1, True), (2, True), (7, False), (2, True)]
    assert relative_positions([8], 7) == [(7, False), (0, True)]
    assert relative_positions([7], 7) == [(7, True)]


@pytest.mark.parametrize("gap_bits", [1, 3, 5])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_decoding_gives_back_every_bit(density, gap_bits):
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(7, generator=generator)
    weight = values[torch.randint(7, (9, 4, 3, 2), generator=generator)] * (torch.rand(9, 4, 3, 2, generator=generator) < density)
    assert torch.equal(decode(encode(weight, gap_bits)), weight)


def test_bits_by_hand():
    # 0.5 at 1, 0.5 at 2, -1 at 4 of five weights: gaps 1, 0, 1; numbers 2, 2, 1. Two symbols each: 3 + 3 bits of streams,
    # two codebook entries of 32 bits, two and two code lengths of 8
    coded = encode(torch.tensor([0.0, 0.5, 0.5, 0.0, -1.0]))
    assert isinstance(coded, Coded)
    assert coded.bits == 3 + 3 + 2 * 32 + 4 * 8
    assert coded.codebook.tolist() == [0.0, -1.0, 0.5]


def test_bits_out_of_range_and_missing_training_are_refused():
    with pytest.raises(ValueError, match="bits: 0 is not"):
        deep_compression.prune(nn.Linear(2, 2), [], 0.5, bits=0)
    with pytest.raises(ValueError, match="train"):
        deep_compression.prune(nn.Linear(2, 2), [], 0.5)


@pytest.mark.claim
def test_a_fortieth_of_the_bits_at_about_the_same_accuracy_and_fine_tuned_centroids_matter():
    (inputs, targets), test = data.digits()
    dense, tuned, stale = [], [], []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        batches = data.batches(inputs, targets, 64, generator)

        def train(network, callbacks, batches=batches, learning_rate=0.01):
            return fit(network, batches, 6, callbacks, optimizer=lambda p: momentum_sgd(p, learning_rate))

        def shared_only(network, callbacks, train=train):
            if not isinstance(callbacks[0], ShareWeights):
                return train(network, callbacks)
            callbacks[0].start(network, None)
            return network

        model = train(networks.lenet_300_100(generator=generator), [], learning_rate=0.03)
        pruned = deep_compression.prune(model, [], 0.95, train=train, bits=2)
        coded, before = (sum(count(weight) for weight in prunable_weights(pruned).values()) for count in (bits_of, dense_bits_of))
        assert coded < before / 40
        dense.append(accuracy(model, [test]))
        tuned.append(accuracy(pruned, [test]))
        stale.append(accuracy(deep_compression.prune(model, [], 0.95, train=shared_only, bits=2), [test]))
    assert sum(tuned) > sum(dense) - 3 * 0.02, (dense, tuned)
    assert sum(tuned) > sum(stale) + 3 * 0.01, (tuned, stale)


def bits_of(weight):
    return encode(weight).bits


def dense_bits_of(weight):
    return 32 * weight.numel()
