"""SkipNet: a recurrent gate decides before each residual block whether this input needs it (wang2018skipnet).

Idea: easy inputs need fewer layers. Around a residual block lies a shortcut, so the block can be left out for one input and kept
for another. A small gate reads the activations in front of the block and decides. Its decision is hard and has no gradient, so
training has two stages: supervised, where the step passes the gradient of the gate's probability, and hybrid, where decisions
are drawn and rewarded: for every block that is skipped, and for a small loss in the end.

Cost: a mean over the feature map, one small linear layer and one step of a shared recurrent network in front of each block.

Implementation details (as in the authors' code)
1. The first block always runs. A skipped block gives what its shortcut gives, which may be a convolution.
2. One LSTM of 10 units, shared by all gates, reads 10 features that each gate makes of its channels' means. So a gate knows
   what was decided before. A block runs if the probability is above 1/2; in the hybrid stage it is drawn.
3. Supervised training knows no price: `penalty` is zero. The price stands in `hybrid_loss`, to be given to training as its loss
   after `draw_decisions`.
4. The reward of a decision is what comes after it: alpha / N for each block skipped from there on, minus the loss in the end.
   The layers learn from the loss alone.

Deviations: the batch's mean loss is taken off as a baseline, which lowers the variance; the code has none. `wrap` takes a
trained network, so gates start open; the code trains the gated network from the beginning. All blocks have the same price, as
in the code. The code sums the policy's gradient over the batch with a weight of 0.01 (of 128 examples), here its mean over the
batch has a weight of 1. Feed-forward gates, the authors' other choice, are left out.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference_impls.core.amounts import Amount, Strength, as_amount
from reference_impls.core.masks import prunable_weights
from reference_impls.core.per_input import dense, macs_per_example, straight_through

UNIT = "block"
GROUP = "network"
AMOUNTS = (Strength,)
NETWORK = "resnet8"
# identity_at_zero does not hold: at no price the gates are there all the same; weights_only does not hold: what runs depends on each input;
# no shrinks: all blocks stay, for the inputs that need them; no exact_count: a price is given, no number
TRAITS: frozenset[str] = frozenset()

FEATURES = 10


class Controller(nn.Module):
    """The recurrent network behind all gates: features of one block's inputs -> the probability that the block runs."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTMCell(FEATURES, FEATURES)
        self.projection = nn.Linear(FEATURES, 1)
        nn.init.constant_(self.projection.bias, 1.0)
        self.drawing = False
        self.restart()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "state": None, "taken": []}  # they hang on a graph, which cannot be copied

    def restart(self) -> None:
        """Forget the batch before: at the beginning of every forward pass."""
        self.state: tuple[Tensor, Tensor] | None = None
        self.taken: list[tuple[Tensor, Tensor]] = []  # decision and probability of each gate, (examples,) both

    def forward(self, features: Tensor) -> Tensor:
        """(examples, features) -> 1 where the block runs, 0 where it is skipped: (examples,)."""
        self.state = self.recurrent(features, self.state)
        probability = self.projection(self.state[0]).sigmoid()[:, 0]
        if self.training and self.drawing:
            decision = probability.detach().bernoulli()
        else:
            decision = straight_through((probability > 0.5).to(probability), probability)
        self.taken.append((decision, probability))
        return decision


class GatedBlock(nn.Module):
    """A residual block behind a gate."""

    def __init__(self, block: nn.Module, controller: Controller) -> None:
        super().__init__()
        self.block, self.controller = block, controller
        convolution = next(layer for layer in block.modules() if isinstance(layer, nn.Conv2d))
        self.features = nn.Linear(convolution.in_channels, FEATURES)
        self.share: Tensor | None = None  # of the work that is being done: 1 for the examples that need it

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "share": None}

    def forward(self, inputs: Tensor) -> Tensor:
        decision = self.controller(self.features(inputs.mean((2, 3))))
        gate = decision[:, None, None, None]
        # x_{i+1} = g_i F_i(x_i) + (1 - g_i) x_i, where F_i has the shortcut inside
        self.share = decision
        computed = self.block(inputs)
        self.share = 1 - decision
        return gate * computed + (1 - gate) * self.block.shortcut(inputs)


class SkipNet(nn.Module):
    """A residual network that leaves out, for each input, the blocks that its gates hold to be needless."""

    def __init__(self, network: nn.Module, controller: Controller, price: float) -> None:
        super().__init__()
        self.network, self.controller, self.price = network, controller, price

    def forward(self, *inputs: Tensor) -> Tensor:
        self.controller.restart()
        return self.network(*inputs)

    def penalty(self) -> float:
        """Zero: the price of running a block stands in `hybrid_loss`."""
        return 0.0

    def draw_decisions(self) -> "SkipNet":
        """From now on training draws the gates' decisions, as the hybrid stage needs it; gives the network itself."""
        self.controller.drawing = True
        return self

    def rewards(self, losses: Tensor) -> list[Tensor]:
        """What each decision of the last batch earned, (examples,) each; `losses`: the loss of each example."""
        earned, rewards = losses.detach().mean() - losses.detach(), []
        for decision, _ in reversed(self.controller.taken):
            # r_i = b - L + sum_{j >= i} alpha / N (1 - g_j), b the batch's mean loss
            earned = earned + self.price / len(self.controller.taken) * (1 - decision)
            rewards.insert(0, earned)
        return rewards

    def hybrid_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy for the layers, and for the gates minus the rewards of what they drew.

        Raises:
            ValueError: decisions are not drawn yet.
        """
        if not (self.controller.drawing and self.controller.taken):
            raise ValueError("draw_decisions: call it first; only decisions that were drawn can be rewarded")
        losses = F.cross_entropy(outputs, targets, reduction="none")
        # L - sum_i r_i log p(g_i)
        policy = sum(
            reward * (decision * probability + (1 - decision) * (1 - probability)).log()
            for reward, (decision, probability) in zip(self.rewards(losses), self.controller.taken, strict=True)
        )
        return (losses - policy).mean()

    def macs(self, inputs: Tensor) -> Tensor:
        """Multiply-accumulates of convolutions, linear layers and gates that each example needs: (examples,)."""
        blocks = [module for module in self.modules() if isinstance(module, GatedBlock)]
        inside = {layer: gated for gated in blocks for layer in gated.block.modules()}
        readers = {gated.features for gated in blocks}
        step = sum(weight.numel() for name, weight in self.controller.recurrent.named_parameters() if name.startswith("weight"))

        def cost(layer: nn.Module, _: Tensor, outputs: Tensor) -> Tensor | int:
            if layer in inside:
                return dense(layer, outputs) * inside[layer].share
            return dense(layer, outputs) + step * (layer in readers)

        return macs_per_example(self, inputs, cost)


def wrap(model: nn.Module, amount: Amount, *, generator: torch.Generator | None = None) -> SkipNet:
    """A copy of the model with a gate before every residual block but the first.

    Args:
        model: residual blocks are its modules that have a `shortcut`.
        amount: alpha, what skipping all blocks of an input is worth in units of its loss.
        generator: draws the gates' first weights.

    Raises:
        ValueError: `amount` is no strength, a weight is NaN or infinite, or the model has fewer than two residual blocks.
    """
    price = as_amount(amount, Strength).factor
    weight = next(iter(prunable_weights(model).values()))
    network, controller = copy.deepcopy(model), Controller()
    names = [name for name, module in network.named_modules() if isinstance(getattr(module, "shortcut", None), nn.Module)]
    if len(names) < 2:
        raise ValueError(f"model: {len(names)} residual blocks with a `shortcut`; a gate needs a second one")
    for name in names[1:]:
        network.set_submodule(name, GatedBlock(network.get_submodule(name), controller))
    skipping = SkipNet(network, controller, price).to(weight)
    drawn = [*controller.recurrent.parameters(), controller.projection.weight]
    drawn += [part for gated in network.modules() if isinstance(gated, GatedBlock) for part in gated.features.parameters()]
    for parameter in drawn:
        nn.init.uniform_(parameter, -(FEATURES**-0.5), FEATURES**-0.5, generator=generator)
    return skipping.train(model.training)
