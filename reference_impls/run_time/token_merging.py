"""ToMe: in every layer the most similar tokens of an image are merged, so that fewer go on and none is lost (bolya2023token).

Idea: pruning throws away what a token carried, and an image needs another number than its neighbour in the batch. Merging keeps
a mean instead. Between attention and MLP, tokens are split alternately into two sets; each token of the first finds its most
similar one in the second, by the keys that attention has computed anyway; the r closest pairs become one token each. Attention
then counts a merged token as often as it has parts. This needs no training and drops nothing.

Cost: one product of half of the keys with the other half per layer, and a sort.

Implementation details (as in the authors' code)
1. Similarity is the cosine of the tokens' keys, averaged over heads. The class token, in the first set, is never merged.
2. Several tokens may merge into the same one. A mean is weighted by the tokens' sizes, and sizes are added.
3. Proportional attention adds the logarithm of a token's size to its scores, as if it stood there as often as it has parts. The
   authors switch it off where the network is trained with merging: `proportional`.
4. At most half of a layer's patches merge. What was not merged comes first, in its order, then the second set.

Deviations: `amount` is the fraction of all patches that should be merged away by the end, in equal numbers per layer, where the
code takes r per layer; where a layer can merge no more, fewer go. With a remainder, later layers merge one more.
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
# identity_at_zero does not hold by name alone: the network stands inside another, and computes the same; weights_only does not hold:
# which tokens merge depends on the image; no shrinks: all weights stay; exact_count is meant of what stands in the saved network
TRAITS: frozenset[str] = frozenset()


def match(keys: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bipartite soft matching: which tokens merge into which.

    Args:
        keys: (examples, tokens, features); the class token is the first.
        count: pairs to merge, at most half of the patches.

    Returns:
        Positions within the first set (tokens 0, 2, ..): of those that stay, in order, and of those that merge; and within the second
        set (tokens 1, 3, ..) of those that they merge into. (examples, number) each.
    """
    keys = F.normalize(keys, dim=-1)
    # s_ij = cos(k_i, k_j), i in the first set, j in the second
    scores = keys[:, ::2] @ keys[:, 1::2].mT
    scores[:, 0] = -torch.inf
    closest = scores.max(-1)
    order = closest.values.argsort(dim=-1, descending=True, stable=True)
    merged, staying = order[:, :count], order[:, count:].sort(-1).values
    return staying, merged, closest.indices.gather(1, merged)


def merge(tokens: Tensor, sizes: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Tokens (examples, tokens, width) and their sizes (examples, tokens) after the `count` closest pairs have become one each."""
    staying, merged, into = match(keys, count)

    def joined(values: Tensor) -> Tensor:
        def pick(positions: Tensor) -> Tensor:
            return positions[..., None].expand(-1, -1, values.shape[-1])

        first, second = values[:, ::2], values[:, 1::2]
        return torch.cat([first.gather(1, pick(staying)), second.scatter_add(1, pick(into), first.gather(1, pick(merged)))], 1)

    # x = sum_i s_i x_i / sum_i s_i
    total = joined(sizes[..., None])
    return joined(tokens * sizes[..., None]) / total, total[..., 0]


class TokenMerging(nn.Module):
    """A vision transformer that merges similar patches of each image between attention and MLP."""

    def __init__(self, network: nn.Module, fraction: float, proportional: bool) -> None:
        super().__init__()
        self.network, self.fraction, self.proportional = network, fraction, proportional

    def counts(self, patches: int) -> list[int]:
        """How many patches each layer merges away."""
        depth, total, counts = len(self.network.blocks), round(self.fraction * patches), []
        for layer in range(depth):
            asked = (layer + 1) * total // depth - layer * total // depth
            counts.append(min(asked, (patches - sum(counts)) // 2))
        return counts

    def forward(self, images: Tensor) -> Tensor:
        network = self.network
        patches = network.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([network.class_token.expand(len(images), -1, -1), patches], 1) + network.positions
        sizes = tokens.new_ones(tokens.shape[:2])
        for block, count in zip(network.blocks, self.counts(patches.shape[1]), strict=True):
            mixed, keys = self.attend(block.attention, block.attention_norm(tokens), sizes)
            tokens = tokens + mixed
            if count:
                tokens, sizes = merge(tokens, sizes, keys.detach(), count)
            tokens = tokens + block.mlp(block.mlp_norm(tokens))
        return network.head(network.norm(tokens)[:, 0])

    def attend(self, attention: nn.Module, tokens: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """What the attention layer gives, and its keys averaged over heads: (examples, tokens, width / heads)."""
        layers = (attention.query, attention.key, attention.value)
        query, key, value = (layer(tokens).unflatten(-1, (attention.heads, -1)).transpose(1, 2) for layer in layers)
        # A = softmax(Q K^T / sqrt(d) + log s)
        more = sizes.log()[:, None, None, :] if self.proportional else None
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=more)
        return attention.output(mixed.transpose(1, 2).flatten(2)), key.mean(1)

    def penalty(self) -> float:
        """Zero: nothing is learned for the merging."""
        return 0.0

    def macs(self, inputs: Tensor) -> Tensor:
        """Multiply-accumulates that each example needs, matching included: the same for all, (examples,)."""
        return torch.full((len(inputs),), counting.macs(self, inputs[:1]))


def wrap(model: nn.Module, amount: Amount, *, proportional: bool = True) -> TokenMerging:
    """A copy of the vision transformer that merges tokens; it needs no training.

    Args:
        model: with `patches`, `class_token`, `positions`, `blocks`, `norm` and `head`, as in the zoo.
        amount: the fraction of the patches that are merged away by the end.
        proportional: whether attention counts a token as often as it has parts.

    Raises:
        ValueError: `amount` is no sparsity, a weight is NaN or infinite, or the model is none of that kind.
    """
    fraction = sparsity(amount)
    missing = [part for part in ("patches", "class_token", "positions", "blocks", "norm", "head") if not hasattr(model, part)]
    if missing:
        raise ValueError(f"model: a vision transformer has {', '.join(missing)}")
    prunable_weights(model)
    return TokenMerging(copy.deepcopy(model), fraction, proportional).train(model.training)
