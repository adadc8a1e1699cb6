"""HYDRA: the training objective itself, a robust one too, learns which weights of a trained network to keep (sehwag2020hydra).

Idea: rules like magnitude do badly where a network is trained for something else than accuracy, above all to withstand attacks:
small weights may be what robustness rests on. So the choice of connections is learned by the same objective. Weights are frozen,
every weight has a score, each layer uses its weights of highest score, and the gradient reaches the scores straight through that
choice. Scores start in proportion to the weights, so the search starts from magnitude pruning. Fine-tuning follows, choice fixed.

Cost: two trainings by `train`, of the scores and of the remaining weights, at the price of dense ones.

Implementation details (of the authors' code)
1. The choice is by |s| in each layer on its own; the gradient of a score is sign(s) * w * dL/dw, with dL/dw at the weights in use.
2. s = sqrt(6 / fan-in) * w / max |w|: the size that linear layers' weights are drawn with, the order of the weights.
3. Which objective it is, adversarial training, smoothing or a certified bound, is decided in `train`, the same for both stages.

Deviations: biases and norms rest during the search (the authors' description says that only scores are updated, their code leaves
norms free by default, as copies of it show; so do copies for item 2, as the original file was not at hand). Exactly
round(sparsity * n) of each layer's n weights go, where the authors cut off a fraction.
"""

import copy
import math

import torch
from torch import Tensor, nn

from reference_impls.before_training.edge_popup import EdgePopup
from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import apply_masks, keep_highest, prunable_weights
from reference_impls.core.training import Batches, HoldMasks, Train, needed

UNIT = "weight"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
# weights_only does not hold, the objective decides; idempotent neither, as the search starts again from other weights
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})


def scaled_scores(weight: Tensor) -> Tensor:
    """The first scores of a layer's weights (out, in, *kernel); zeros, if all weights are."""
    # s = sqrt(6 / n) w / max |w|, n = fan-in
    return math.sqrt(6 / weight[0].numel()) * weight / weight.abs().max().clamp(min=torch.finfo(weight.dtype).tiny)


class ScoreSearch(EdgePopup):
    """Trains scores that start in proportion to the weights; these stay as they are, absent ones hidden.

    Attributes:
        masks: the weights in use now.
        scores: weight name -> trained score.
    """

    def __init__(self, model: nn.Module, fraction: float) -> None:
        super().__init__(fraction, signed_constants=False, scaled=False, generator=None)
        self.weights = {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}
        self.scores = {name: nn.Parameter(scaled_scores(weight)) for name, weight in self.weights.items()}
        self.masks = keep_highest({name: score.detach().abs() for name, score in self.scores.items()}, fraction, "layer")

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.add_param_group({"params": list(self.scores.values())})
        apply_masks(model, self.masks)


def prune(model: nn.Module, batches: Batches, amount: Amount, *, train: Train | None = None, evaluate: object = None) -> nn.Module:
    """The network with the weights that the objective keeps, fine-tuned.

    Args:
        model: trained, by the same objective best.
        batches: not used; the data is in `train`.
        amount: the fraction of each layer's weights to remove.
        train: (model, callbacks) -> model, the objective to be kept; called for the scores, then for the weights.
        evaluate: not used.

    Raises:
        ValueError: `amount` is no sparsity, a weight is NaN or infinite, there is nothing to prune, or no `train`.
    """
    search = ScoreSearch(model, sparsity(amount))
    network = needed(train)(copy.deepcopy(model), [search])
    apply_masks(network, search.masks)
    return train(network, [HoldMasks(search.masks)])
