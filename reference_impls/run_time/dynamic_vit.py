"""DynamicViT: small predictors between layers drop the tokens of an image that its class does not need (rao2021dynamicvit).

Idea: a vision transformer decides by few patches. At some layers a predictor looks at every token left, and at their mean, and
scores it; the best ones stay, and the number shrinks from stage to stage. In training dropped tokens stay where they are, since
a drawn decision differs from image to image; they are only left out of the attention of the others, so that the decision has
a gradient. In use they are gone, which saves time without special kernels: every image keeps as many.

Cost: four small linear layers per token and stage; in training also the unpruned network as a teacher.

Implementation details (as in the authors' code)
1. A predictor normalizes, projects, and replaces half of the features by their mean over the tokens left; then three linear
   layers give the logarithms of two probabilities, to keep and to drop. The class token is never scored.
2. In training the decision is drawn (Gumbel softmax, straight through) and multiplied with the decisions before. Attention to a
   dropped token is zero, but each token sees itself.
3. With rho = 1 - amount, stage j keeps rho^j of all patches; the tokens of the highest scores stay.
4. The penalty: 2 times the mean over stages of the squared distance of each image's kept fraction from rho^j; half the
   Kullback-Leibler divergence from the unpruned network's classes; and half the mean squared distance of the tokens left from the
   unpruned network's, behind the last norm.

Deviations: n - round((1 - rho^j) n) of n patches stay, at least one, where the code rounds down. The softmax has no small
constant for stability: a token that sees itself has no zero denominator. Stages stand at the quarters of the depth by default,
as in the authors' networks of 12 layers; where two quarters fall on one layer it is one stage. Kept tokens keep their order.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference_impls.core import counting
from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import prunable_weights

UNIT = "token"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "vit_small"
# identity_at_zero does not hold: predictors and a teacher are there at any amount; weights_only does not hold: which tokens go depends on
# the image; no shrinks: all weights stay; exact_count is meant of what stands in the saved network: all of it
TRAITS: frozenset[str] = frozenset()


def masked_softmax(scores: Tensor, keep: Tensor) -> Tensor:
    """Attention over kept tokens and oneself: (examples, heads, tokens, tokens) with `keep` (examples, tokens), 1 = kept."""
    itself = torch.eye(scores.shape[-1], dtype=scores.dtype, device=scores.device)
    # G_ij = 1 for i = j, else D_j; A_ij = exp(P_ij) G_ij / sum_k exp(P_ik) G_ik
    seen = keep[:, None, None, :] * (1 - itself) + itself
    weights = (scores - scores.amax(-1, keepdim=True)).exp() * seen
    return weights / weights.sum(-1, keepdim=True)


def attend(attention: nn.Module, tokens: Tensor, keep: Tensor) -> Tensor:
    """What an attention layer of `query`, `key`, `value` and `output` gives where dropped tokens are not seen by others."""
    layers = (attention.query, attention.key, attention.value)
    query, key, value = (layer(tokens).unflatten(-1, (attention.heads, -1)).transpose(1, 2) for layer in layers)
    mixed = masked_softmax(query @ key.mT * attention.head_dim**-0.5, keep) @ value
    return attention.output(mixed.transpose(1, 2).flatten(2))


class Predictor(nn.Module):
    """Scores tokens: (examples, tokens, width) and which of them are left -> log-probabilities to keep and to drop (.., tokens, 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inward = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        sizes = (width, width // 2, width // 4)
        self.outward = nn.Sequential(
            nn.Linear(sizes[0], sizes[1]), nn.GELU(), nn.Linear(sizes[1], sizes[2]), nn.GELU(), nn.Linear(sizes[2], 2), nn.LogSoftmax(-1)
        )

    def forward(self, tokens: Tensor, left: Tensor) -> Tensor:
        local, whole = self.inward(tokens).chunk(2, -1)
        # z_global = sum_i D_i z_i / sum_i D_i
        mean = (whole * left[..., None]).sum(1, keepdim=True) / left.sum(1).clamp(min=1)[:, None, None]
        return self.outward(torch.cat([local, mean.expand_as(whole)], -1))


class DynamicViT(nn.Module):
    """A vision transformer that goes on, from stage to stage, with fewer of each image's patches."""

    def __init__(self, network: nn.Module, stages: dict[int, float], ratio_weight: float, distill_weight: float) -> None:
        super().__init__()
        self.network, self.teacher = network, copy.deepcopy(network).requires_grad_(False).eval()
        self.stages = stages  # block -> the fraction of all patches that goes on from there
        self.ratio_weight, self.distill_weight = ratio_weight, distill_weight
        self.predictors = nn.ModuleList(Predictor(network.head.in_features) for _ in stages)
        self.terms: dict[str, Tensor] = {}  # of the last training batch

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "terms": {}}  # they hang on a graph, which cannot be copied

    def train(self, mode: bool = True) -> "DynamicViT":
        super().train(mode)
        self.teacher.eval()
        return self

    def embed(self, images: Tensor, network: nn.Module) -> Tensor:
        """Class token and patches with their positions: (examples, 1 + patches, width)."""
        patches = network.patches(images).flatten(2).transpose(1, 2)
        return torch.cat([network.class_token.expand(len(images), -1, -1), patches], 1) + network.positions

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images, self.network)
        patches = tokens.shape[1] - 1
        left = tokens.new_ones(tokens.shape[:2])
        predictors, ratios = iter(self.predictors), []
        for place, block in enumerate(self.network.blocks):
            if place in self.stages:
                scores = next(predictors)(tokens[:, 1:], left[:, 1:])
                if self.training:
                    kept = F.gumbel_softmax(scores, hard=True)[..., 0] * left[:, 1:]
                    left = torch.cat([torch.ones_like(left[:, :1]), kept], 1)
                    ratios.append((kept.mean(1) - self.stages[place]).square().mean())
                else:
                    tokens = self.drop(tokens, scores[..., 0], max(patches - round((1 - self.stages[place]) * patches), 1))
                    left = tokens.new_ones(tokens.shape[:2])
            if self.training:
                tokens = tokens + attend(block.attention, block.attention_norm(tokens), left)
                tokens = tokens + block.mlp(block.mlp_norm(tokens))
            else:
                tokens = block(tokens)
        tokens = self.network.norm(tokens)
        outputs = self.network.head(tokens[:, 0])
        if self.training:
            self.terms = {"ratio": torch.stack(ratios).mean(), **self.distances(images, outputs, tokens[:, 1:], left[:, 1:].detach())}
        return outputs

    def drop(self, tokens: Tensor, scores: Tensor, count: int) -> Tensor:
        """The class token and the `count` patches of the highest scores, in their order."""
        kept = scores.argsort(dim=1, descending=True, stable=True)[:, :count].sort(1).values + 1
        kept = torch.cat([torch.zeros_like(kept[:, :1]), kept], 1)
        return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))

    def distances(self, images: Tensor, outputs: Tensor, patches: Tensor, left: Tensor) -> dict[str, Tensor]:
        """From the unpruned network: the divergence of the classes, and the mean squared distance of the patches left."""
        with torch.no_grad():
            tokens = self.embed(images, self.teacher)
            for block in self.teacher.blocks:
                tokens = block(tokens)
            tokens = self.teacher.norm(tokens)
            classes = self.teacher.head(tokens[:, 0]).log_softmax(-1)
        # KL(y' || y), and sum_i D_i ||t_i - t'_i||^2 / (C sum_i D_i)
        divergence = F.kl_div(outputs.log_softmax(-1), classes, reduction="batchmean", log_target=True)
        squares = ((patches - tokens[:, 1:]).square().mean(-1) * left).sum() / left.sum().clamp(min=1)
        return {"divergence": divergence, "tokens": squares}

    def penalty(self) -> Tensor:
        """The paper's terms besides the cross entropy, of the last training batch."""
        # lambda_ratio L_ratio + lambda_distill (L_KL + L_tokens)
        return self.ratio_weight * self.terms["ratio"] + self.distill_weight * (self.terms["divergence"] + self.terms["tokens"])

    def macs(self, inputs: Tensor) -> Tensor:
        """Multiply-accumulates that each example needs, predictors included: the same for all, (examples,)."""
        return torch.full((len(inputs),), counting.macs(self, inputs[:1]))


def wrap(
    model: nn.Module,
    amount: Amount,
    *,
    stages: tuple[int, ...] | None = None,
    ratio_weight: float = 2.0,
    distill_weight: float = 0.5,
    generator: torch.Generator | None = None,
) -> DynamicViT:
    """A copy of the vision transformer that drops tokens; fine-tune it afterwards.

    Args:
        model: with `patches`, `class_token`, `positions`, `blocks`, `norm` and `head`, as in the zoo.
        amount: the fraction of the patches left that each stage drops.
        stages: the blocks in front of which tokens are dropped, counted from 0; the quarters of the depth by default.
        ratio_weight: lambda_ratio. distill_weight: lambda_distill.
        generator: draws the predictors' first weights.

    Raises:
        ValueError: `amount` is no sparsity, a stage names no block, a weight is NaN or infinite, or the model is none of that kind.
    """
    rate = 1 - sparsity(amount)
    missing = [part for part in ("patches", "class_token", "positions", "blocks", "norm", "head") if not hasattr(model, part)]
    if missing:
        raise ValueError(f"model: a vision transformer has {', '.join(missing)}")
    weight = next(iter(prunable_weights(model).values()))
    depth = len(model.blocks)
    places = sorted({depth * quarter // 4 for quarter in (1, 2, 3)} - {0}) if stages is None else sorted(set(stages))
    if not places or not set(places) <= set(range(depth)):
        raise ValueError(f"stages: {places or 'none'}; allowed: blocks 0 to {depth - 1}, at least one")
    ratios = {place: rate**stage for stage, place in enumerate(places, 1)}
    pruned = DynamicViT(copy.deepcopy(model), ratios, ratio_weight, distill_weight).to(weight)
    for layer in pruned.predictors.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
            nn.init.zeros_(layer.bias)
    return pruned.train(model.training)
