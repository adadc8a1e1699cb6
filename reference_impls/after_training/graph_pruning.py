"""GraphPruning: layers tell their neighbours how wide they are, the weights follow from that, and an agent reads the same (zhang2022graph).

Idea: what a layer may lose depends on other layers, above all where a shortcut ties them. So see the network as a graph whose nodes are its
layers, and let a graph convolution network gather for each node what its neighbourhood keeps. From a node's features one linear layer
writes that layer's weights; trained on structures drawn at random, this gives usable weights for any of them, and their accuracy at once.
The features then serve twice: they are the states from which an agent decides, node after node, how much to keep.

Cost: training the graph network, `hidden` times the weights; one calibration and evaluation per structure tried; a last training.

Implementation details
1. A node starts from two numbers, the fractions kept of what its layer makes and of what it reads; 1 where nothing can be removed.
2. Two layers are neighbours where removing one unit cuts both: one reads what the other makes, or a shortcut adds what both make.
3. A state holds the features of the layer to decide on, with later layers at full width. An action is a fraction; it is narrowed until
   the budget can still be met.
4. The reward is the negative error, by the weights that the graph network writes.

Deviations: the paper is known here through its abstract, which names the graph network, the linear layer of each node, the joint training
from scratch, and the search by reinforcement with the learned features as states. Choices made here: two graph convolutions with symmetric
normalization, what a node starts from, the widths and the handling of batch normalization (those of MetaPruning), the agent and its reward
(those of AMC under a budget), and that the winner is trained from the first channels of the given network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls.after_training.amc import Space, error_reward, search
from reference_impls.core.amounts import Amount, Budget, as_amount
from reference_impls.core.ddpg import new_agent
from reference_impls.core.groups import Group
from reference_impls.core.structures import Costs, one_example, removable_groups, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Train, needed
from reference_impls.during_training.metapruning import SCALES, PruningNet, Structure, numbers

UNIT = "channel"
GROUP = "network"
AMOUNTS = (Budget,)
NETWORK = "resnet8"
QUICK = {"episodes": 8, "warmup": 4, "hidden": 4}  # to see that it runs; far too few to learn
# idempotent does not hold: the search may find a narrower structure; exact_count does not apply to a budget
TRAITS = frozenset({"shrinks"})


def normalized(adjacency: Tensor) -> Tensor:
    """The symmetrically normalized adjacency of a graph whose nodes are their own neighbours, too: (nodes, nodes).

    Args:
        adjacency: bool, symmetric, (nodes, nodes).
    """
    # A^ = D^-1/2 (A + I) D^-1/2, D = the degrees of A + I
    joined = (adjacency | torch.eye(len(adjacency), dtype=torch.bool)).float()
    degree = joined.sum(1)
    return joined / (degree[:, None] * degree).sqrt()


class GraphPruningNet(PruningNet):
    """A network whose weights follow from what each layer's neighbourhood keeps; in training of a structure that it draws.

    Attributes:
        nodes: the layers, by the names of their weights.
        adjacency: which of them are neighbours, normalized: (nodes, nodes).
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], hidden: int = 32, generator: torch.Generator | None = None) -> None:
        super().__init__(model, groups, 1, generator)
        self.nodes = list(self.touching)
        touched = [set(places) for places in self.touching.values()]
        self.register_buffer("adjacency", normalized(torch.tensor([[bool(one & other) for other in touched] for one in touched])))
        self.sides: list[list[list[int]]] = [[[], []] for _ in self.nodes]  # node -> groups that it makes, groups that it reads
        for place, group in enumerate(groups):
            for side, members in enumerate((group.producers, group.consumers)):
                for member, _ in weights_among(model, members):
                    self.sides[self.nodes.index(member.tensor)][side].append(place)
        like = self.network.get_parameter(self.nodes[0])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.convolutions = nn.ModuleList([nn.Linear(2, hidden), nn.Linear(hidden, hidden)]).to(like)
            writers = [nn.Linear(hidden, self.network.get_parameter(name).numel()) for name in self.nodes]
        self.writers = nn.ModuleList(writers).to(like)
        self.adjacency = self.adjacency.to(like)

    def features(self, structure: Structure) -> Tensor:
        """What the graph convolutions gather for each node: (nodes, hidden)."""
        kept = [[sum(SCALES[structure[p]] for p in places) / len(places) if places else 1.0 for places in sides] for sides in self.sides]
        gathered = self.adjacency.new_tensor(kept)
        for convolution in self.convolutions:
            # H <- relu(A^ H Theta + b)
            gathered = convolution(self.adjacency @ gathered).relu()
        return gathered

    def write(self, structure: Structure) -> dict[str, Tensor]:
        # W_l = fc_l(h_l)
        parts = zip(self.nodes, self.writers, self.features(structure), strict=True)
        return {name: writer(row).view_as(self.network.get_parameter(name)) for name, writer, row in parts}


@dataclass
class NodeSpace(Space):
    """The search of AMC, with learned features for the states; a number kept is a place in SCALES plus 1."""

    look: Callable[[Structure], Tensor]  # structure -> the features of each step's layer: (steps, hidden)

    def state(self, chosen: list[int]) -> Tensor:
        """The features of the next step's layer, all later ones at full width: (hidden,)."""
        numbers = [*chosen, *self.sizes[len(chosen) :]]
        return self.look(tuple(number - 1 for number in numbers))[len(chosen)]


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    episodes: int = 400,
    warmup: int = 100,
    hidden: int = 32,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The best structure that the agent has found within the budget, trained.

    Args:
        batches: measure batch normalization's statistics for every structure.
        amount: `Budget(macs=...)`, the most that one example may cost.
        train: (model, callbacks) -> model; trains the graph network with the one that it writes, and then the winner.
        evaluate: model -> accuracy in [0, 1], on images held out from training.
        episodes: structures that are tried, the warm-up included.
        warmup: episodes that act at random.
        hidden: features of a node.
        generator: draws structures, actions and first weights.

    Raises:
        ValueError: `amount` is no budget of macs or out of reach, no batch, no `train` or `evaluate`, a NaN weight, or nothing can go.
    """
    budget = as_amount(amount, Budget).macs
    if budget is None:
        raise ValueError(f"amount: {amount!r}; this method counts multiply-accumulates, Budget(macs=...)")
    example = one_example(batches)
    groups = [group for group in removable_groups(model, example) if weights_among(model, group.producers)]
    costs = Costs(model, groups, example)

    def cost(chosen: Sequence[int]) -> float:
        counts = numbers(groups, tuple(number - 1 for number in chosen))
        return costs(dict(zip((group.name for group in groups), counts, strict=True)))

    if (least := cost([1] * len(groups))) > budget:
        raise ValueError(f"amount: a budget of {budget:g} is out of reach, the least is {least:g}")
    if evaluate is None:
        raise ValueError("evaluate: the search needs evaluate(model) -> accuracy")
    net = needed(train)(GraphPruningNet(model, groups, hidden, generator))
    deciding = [net.nodes.index(weights_among(model, group.producers)[0][0].tensor) for group in groups]

    def earn(chosen: Sequence[int]) -> float:
        small = net.take(tuple(number - 1 for number in chosen), batches)
        return error_reward(1 - evaluate(small), cost(chosen))

    def look(structure: Structure) -> Tensor:
        return net.features(structure)[deciding].detach().float()

    steps = len(groups)
    space = NodeSpace([len(SCALES)] * steps, [1] * steps, torch.empty(steps, 0), cost, earn, budget, look)
    best, _ = search(space, new_agent(hidden, generator=generator), episodes, warmup, generator)
    counts = numbers(groups, tuple(number - 1 for number in best))
    kept = {group.name: torch.arange(group.size) < count for group, count in zip(groups, counts, strict=True)}
    return needed(train)(remove(model, groups, kept))
