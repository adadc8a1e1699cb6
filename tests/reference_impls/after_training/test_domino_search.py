"""DominoSearch (sun2021dominosearch): its parts by hand, the search against a loop written another way, and the patterns that come out."""

import copy

import pytest
import torch
from torch import nn

from reference_impls.after_training import domino_search
from reference_impls.core.amounts import NM
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import Callback, cross_entropy, fit
from reference_impls.during_training import sr_ste


def test_threshold_and_vote_by_hand():
    # groups of four along the inputs: the means of the smaller halves are (1 + 2) / 2 = 1.5, (3 + 3) / 2 = 3, (0 + 1) / 2 = 0.5, 5
    weight = torch.tensor([[1.0, -4, 2, 8, 3, 3, 3, -3], [1, 1, 0, 9, 5, 5, -5, 6]])
    threshold = domino_search.thresholds(weight, 4)
    assert threshold.tolist() == [[1.5], [3], [0.5], [5]]
    # above them: 4, 2, 8 | none | 1, 1, 9 | 6: three, none, three and one. Fewer than four in all groups; fewer than three in two of four
    assert domino_search.falls(weight, threshold, 4)
    assert not domino_search.falls(weight, threshold, 3)
    weight[0, 2] = 1.5  # not above: now two, in three of four groups fewer than three
    assert domino_search.falls(weight, threshold, 3)
    assert not domino_search.falls(weight, threshold, 2)


def test_groups_lie_along_the_input_channels():
    weight = torch.arange(2.0 * 4 * 3).view(2, 4, 3, 1)
    assert domino_search.grouped(weight, 4)[0].tolist() == weight[0, :, 0, 0].tolist()
    assert domino_search.grouped(-weight, 2)[1].tolist() == weight[0, 2:, 0, 0].tolist()


def test_factors_by_hand():
    # 8 of 8 at 100 MACs, 4 of 8 at 400, 2 of 8 at 40: 100, 200, 10, of 200: 0.5, 1, 0.05.
    # Shares 0.8, 0.6, 0.35 less 0, 0.5, 0.75: 0.8, 0.1, -0.4, of 0.8: 1, 0.125, -0.5
    kept, macs = {"a": 8, "b": 4, "c": 2}, {"a": 100.0, "b": 400.0, "c": 40.0}
    found = domino_search.factors(kept, 8, macs, {"a": 0.8, "b": 0.6, "c": 0.35})
    assert list(found.values()) == pytest.approx([0.75, 0.5625, -0.225])
    # nobody is short of its share any more (by more than 0.01): costs alone
    found = domino_search.factors(kept, 8, macs, {"a": 0.009, "b": 0.5, "c": 0.35})
    assert list(found.values()) == pytest.approx([0.25, 0.5, 0.025])
    # the largest in size may be negative: 0.02, 0.1, -0.4, of 0.4
    found = domino_search.factors(kept, 8, macs, {"a": 0.02, "b": 0.6, "c": 0.35})
    assert list(found.values()) == pytest.approx([0.25 + 0.025, 0.5 + 0.125, 0.025 - 0.5])


def network(*sizes):
    torch.manual_seed(0)
    layers = [nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 4)]
    return nn.Sequential(*layers)


def data(steps):
    torch.manual_seed(1)
    return [(torch.randn(16, 8, 5, 5), torch.randint(4, (16,))) for _ in range(steps)]


MACS = {"0.weight": 16 * 72 * 9.0, "3.weight": 144 * 8.0, "5.weight": 32.0}
SHAPES = {"0.weight": (16, 8, 3, 3), "3.weight": (8, 144), "5.weight": (4, 8)}


def as_the_code_read_does(target, m, decay, check_every, penalty_every, steps):
    """The search, step by step with plain loops: after each step the numbers kept, and the weights in use."""
    model, looks, kept, falling, done = network(), [], dict.fromkeys(SHAPES, m), dict.fromkeys(SHAPES, m), False
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    cut = lambda weight: [piece for row in weight.movedim(1, -1).reshape(-1, weight.shape[1]) for piece in row.split(m)]
    threshold = {n: [sum(sorted(g.abs().tolist())[: m // 2]) / (m // 2) for g in cut(model.get_parameter(n).detach())] for n in SHAPES}
    # Erdos-Renyi-Kernel, by hand: 4 + 8 of 32 weights of the last layer are more than all of it, so it is dense
    raw = {n: sum(s) / torch.Size(s).numel() for n, s in SHAPES.items()}
    sizes = {n: torch.Size(s).numel() for n, s in SHAPES.items()}
    total = sum(sizes.values())
    share = dict.fromkeys(SHAPES, 0.0)
    open_ = list(SHAPES)
    while True:
        epsilon = ((1 - target) * total - sum(sizes[n] for n in SHAPES if n not in open_)) / sum(raw[n] * sizes[n] for n in open_)
        full = [n for n in open_ if epsilon * raw[n] > 1]
        if not full:
            break
        open_ = [n for n in open_ if n not in full]
    share |= {n: 1 - epsilon * raw[n] for n in open_}

    def masks():
        found = {}
        for name in SHAPES:
            weight = model.get_parameter(name).detach()
            rows = []
            for group in cut(weight):
                best = set(sorted(range(m), key=lambda i: (group[i].abs().item(), i))[m - falling[name] :])
                rows.append(torch.tensor([float(i in best) for i in range(m)]))
            inputs_last = weight.movedim(1, -1).shape
            found[name] = torch.cat(rows).view(inputs_last).movedim(-1, 1)
        return found

    now = masks()
    for step, (inputs, targets) in enumerate(data(steps)):
        optimizer.zero_grad()
        pieces = {name: model.get_parameter(name) * mask for name, mask in now.items()}
        cross_entropy(torch.func.functional_call(model, pieces, inputs), targets).backward()
        cost = {n: MACS[n] * kept[n] / m for n in SHAPES}
        short = {n: share[n] - 1 + kept[n] / m for n in SHAPES}
        for name in SHAPES:
            erk = short[name] / max(abs(value) for value in short.values()) if max(short.values()) >= 0.01 else 0.0
            if step % penalty_every == 0:
                pull = decay * (0.5 * cost[name] / max(cost.values()) + 0.5 * erk)
                model.get_parameter(name).grad += pull * model.get_parameter(name).detach() * now[name]
        if step % check_every == 0:
            for name in SHAPES:
                if kept[name] == 1 or done:
                    continue
                groups = cut(model.get_parameter(name).detach())
                votes = [int((g.abs() > t).sum()) < falling[name] for g, t in zip(groups, threshold[name], strict=True)]
                falling[name] -= sum(votes) >= 0.75 * len(votes)
                if falling[name] in (1, 2, 4, 8):
                    kept[name] = falling[name]
                done = sum(sizes[n] * kept[n] for n in SHAPES) <= (1 - target) * m * total
        optimizer.step()
        now = masks()
        looks.append((dict(kept), {name: model.get_parameter(name).detach() * mask for name, mask in now.items()}))
    return looks


class Watch(Callback):
    def __init__(self, found):
        self.found, self.seen = found, []

    def after_step(self, model, optimizer):
        self.seen.append((dict(self.found.kept), {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}))


@pytest.mark.parametrize(("target", "decay", "check_every", "penalty_every"), [(0.6, 0.3, 2, 2), (0.8, 0.6, 1, 3)])
def test_same_search_as_plain_loops(target, decay, check_every, penalty_every):
    theirs = as_the_code_read_does(target, 8, decay, check_every, penalty_every, 24)
    found = domino_search.Search(target, 8, decay, MACS, check_every, penalty_every)
    watch = Watch(found)
    model = network()
    fit(model, data(24), 1, [found, watch])
    for (kept, weights), (expected, pieces) in zip(watch.seen, theirs, strict=True):
        assert kept == expected
        for name, piece in pieces.items():
            torch.testing.assert_close(weights[name], piece, rtol=1e-4, atol=1e-6)
    assert found.done and found.sparsity() >= target
    assert len({tuple(kept.values()) for kept, _ in watch.seen}) > 2


def test_a_search_goes_on_where_the_run_before_has_stopped():
    whole, parts = (domino_search.Search(0.8, 8, 0.3, MACS, 3, 2) for _ in range(2))
    plain = lambda parameters: torch.optim.SGD(parameters, lr=0.1)
    one, two = network(), network()
    fit(one, data(20), 1, [whole], optimizer=plain)
    fit(two, data(20)[:9], 1, [parts], optimizer=plain)
    fit(two, data(20)[9:], 1, [parts], optimizer=plain)
    assert whole.kept == parts.kept and whole.falling == parts.falling
    assert all(torch.equal(whole.dense[name], parts.dense[name]) for name in whole.dense)


def runs(steps):
    made = []

    def train(model, callbacks):
        made.append(callbacks)
        return fit(model, data(steps), 1, callbacks)

    return train, made


def test_the_network_has_the_patterns_found_and_reaches_the_target():
    model = network()
    before = copy.deepcopy(model.state_dict())
    train, made = runs(12)
    options = {"m": 8, "decay": 0.05, "check_every": 2, "penalty_every": 1}
    patterns = domino_search.search(model, data(1), 0.7, train, **options)
    searches = len(made)
    assert 1 < searches < domino_search.RUNS  # the decay had to double
    pruned = domino_search.prune(model, data(1), 0.7, train=train, **options)
    assert len(made) == 2 * searches + 1
    weights = prunable_weights(pruned)
    left = total = 0
    for name, weight in weights.items():
        assert patterns[name].m == 8
        groups = (weight != 0).movedim(1, -1).reshape(-1, 8).sum(1)
        assert (groups == patterns[name].n).all()
        left, total = left + int(groups.sum()), total + weight.numel()
    assert left <= 0.3 * total
    assert len({pattern.n for pattern in patterns.values()}) > 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_decay_doubles_from_run_to_run(monkeypatch):
    seen = []
    monkeypatch.setattr(domino_search.Search, "after_step", lambda self, model, optimizer: seen.append(self.decay))
    with pytest.raises(ValueError, match=r"amount: sparsity 0.8 was not reached in 8 runs of train, but 0.000"):
        domino_search.search(network(), data(1), 0.8, runs(1)[0], 8, 0.1, 100, 100)
    assert seen == pytest.approx([0.1 * 2**run for run in range(8)])


def test_one_pattern_for_all_trains_as_sr_ste_does():
    ours, theirs = network(), network()
    fit(ours, data(8), 1, [domino_search.Mixed(dict.fromkeys(SHAPES, NM(2, 8)), 0.01)])
    fit(theirs, data(8), 1, sr_ste.callbacks(theirs, NM(2, 8), steps=8, decay=0.01))
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_a_dense_target_needs_no_search():
    train, made = runs(2)
    domino_search.prune(network(), data(1), 0.0, train=train, m=8)
    assert len(made) == 1


@pytest.mark.parametrize("given", [{"m": 1}, {"m": 6}, {"decay": -1.0}, {"check_every": 0}, {"penalty_every": 0}, {"refine": -0.1}])
def test_refuses_what_is_out_of_range(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        domino_search.prune(network(), data(1), 0.0, train=runs(1)[0], **given)


def test_refuses_what_the_groups_cannot_give():
    with pytest.raises(ValueError, match=r"amount: sparsity 0\.9 is more than one of 8"):
        domino_search.prune(network(), data(1), 0.9, train=runs(1)[0], m=8)
    with pytest.raises(ValueError, match=r"amount: 16:16 does not fit 0\.weight"):
        domino_search.prune(network(), data(1), 0.5, train=runs(1)[0])
    with pytest.raises(ValueError, match="train"):
        domino_search.prune(network(), data(1), 0.5, m=8)
    domino_search.prune(network(), data(1), 0.0, train=runs(1)[0], m=2, decay=0, refine=0, check_every=1, penalty_every=1)
