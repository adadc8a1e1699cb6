"""SET: train a sparse random network, and let its connections evolve: the weights nearest zero go, random ones come (mocanu2018scalable).

Idea: fully connected layers are not needed. Start with a random sparse graph between two layers; after every epoch remove
the connections that matter least and try as many others at random. What turns out useful stays, and over the epochs the
graph finds its own shape.

Cost: that of training at the given density, and one sort of each layer's connections per epoch; no dense gradient is ever
needed. (Masks over dense tensors, as here, show the method and save nothing.)

Implementation details
1. Erdos-Renyi densities: a layer keeps a number of connections proportional to the sum of its dimensions, not to their product.
2. Positive and negative weights are ranked apart: the fraction zeta of the smallest positive and of the largest negative goes.
   A connection whose weight is exactly zero goes too, as in the authors' code.
3. New connections are drawn uniformly from all absent ones, those just removed included, with weights from a normal
   distribution of deviation 0.1 and no momentum, as in the authors' code with sparse data structures. (Their mask over
   Keras starts them at zero.)
4. Nothing moves after the last epoch: the new connections would stay untrained.

Deviations: each layer gets its exact number of connections, where the authors draw every connection with the probability;
round(zeta * n) of n weights go, where they truncate; convolutions count their kernel's dimensions as well, as in RigL.
The authors keep the output layer dense; here it is sparse like the others.
"""

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.connections import Connections, grow_random, random_connections
from reference_impls.core.densities import erdos_renyi_kernel
from reference_impls.core.masks import Masks, prunable_weights
from reference_impls.core.training import Callback

UNIT = "weight"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
# no exact_count: the layers' densities differ, and each layer rounds its own
# no identity_at_zero: a dense network, too, loses weights after every epoch and gets them back with random values
TRAITS = frozenset({"regrows"})


def nearest_zero(weight: Tensor, mask: Tensor, zeta: float) -> Tensor:
    """The connections that stay when the weights nearest zero go, the positive and the negative ones each on their own.

    Args:
        weight: of any shape.
        mask: True = connected; shaped as the weight.
        zeta: fraction of the positive, and of the negative connections to remove, in [0, 1].
    """
    stays = (mask & (weight != 0)).flatten()
    for side in (weight, -weight):
        members = mask & (side > 0)
        count = round(zeta * int(members.sum()))
        stays[side.masked_fill(~members, torch.inf).flatten().argsort(stable=True)[:count]] = False
    return stays.view_as(mask)


class Evolution(Connections):
    """Removes and regrows connections after every epoch but the last."""

    def __init__(self, masks: Masks, zeta: float, steps: int, generator: torch.Generator | None) -> None:
        super().__init__(masks)
        self.zeta, self.steps, self.generator = zeta, steps, generator

    @torch.no_grad()
    def epoch_end(self, model: nn.Module, epoch: int) -> None:
        if self.step >= self.steps:
            return
        for name, weight in prunable_weights(model).items():
            before = self.masks[name]
            stays = nearest_zero(weight, before, self.zeta)
            self.masks[name] = grow_random(stays, int(before.sum()) - int(stays.sum()), self.generator)
            fresh = torch.randn(weight.shape, generator=self.generator).to(weight)
            weight.copy_(torch.where(stays, weight, 0.1 * fresh))
            for state in self.optimizer.state.get(weight, {}).values():
                if isinstance(state, Tensor) and state.shape == weight.shape:
                    state.masked_fill_(~stays, 0)
            weight.masked_fill_(~self.masks[name], 0)


def callbacks(
    model: nn.Module, amount: Amount, *, steps: int, zeta: float = 0.3, generator: torch.Generator | None = None
) -> list[Callback]:
    """Train sparse, and let the connections evolve after every epoch.

    Args:
        model: what will be trained, at initialization.
        amount: the fraction of all weights that is absent, in [0, 1).
        steps: optimizer steps of the whole run, at least 1.
        zeta: fraction of the connections that is replaced, in [0, 1].
        generator: draws the connections and the new weights; the default generator if None.

    Raises:
        ValueError: an argument is outside its range.
    """
    density = 1 - sparsity(amount)
    if steps < 1:
        raise ValueError(f"steps: {steps} is below 1")
    if not 0 <= zeta <= 1:
        raise ValueError(f"zeta: {zeta} is not in [0, 1]")
    # p = epsilon (n_k + n_k-1) / (n_k n_k-1)
    densities = erdos_renyi_kernel({name: weight.shape for name, weight in prunable_weights(model).items()}, density)
    return [Evolution(random_connections(model, densities, generator), zeta, steps, generator)]
