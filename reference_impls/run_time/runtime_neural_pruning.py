"""RNP: an agent sees each layer's input and decides how many groups of its channels this image needs (lin2017runtime).

Idea: a pruned network treats every image alike. Here all channels stay, and an agent walks with the image through the network.
In front of each convolution it looks at the feature map and chooses how many groups of output channels are computed, the first
ones first; the others are zero. This is a Markov decision process: every further group has a price, and in the end the loss
of the classification is due. The agent learns the value of its choices by Q-learning, and takes the best one.

Cost: a mean over the feature map, one small linear layer, one step of a recurrent network and one linear layer per convolution.

Implementation details (1 from the abstract, the rest as in an independent reproduction of the paper; no code of the authors is known)
1. Bottom up, layer by layer, from the feature map as it is after the decisions before.
2. An encoder per layer makes a code of fixed length, a shared recurrent network joins it with the codes before, a shared decoder
   gives the values of the k actions. The first convolution is computed whole.
3. Action a (0 to k - 1) computes the first a + 1 of k groups. Its reward is a times the price, which is below zero; the
   last one's also minus alpha times the loss. In training a random action is taken now and then.
4. The values follow r + gamma max Q of the next layer by squared error. `loss` adds this to the cross entropy of the network.

Deviations: agent and network learn in the same step, where the reproduction takes turns; each from its own part of the loss alone. All
layers of an image learn at once, from its own loss. The values of the next layer are those of the agent itself, without a second,
slower copy. The rate of random actions stays as it is given. A convolution's normalization is gated with it, so that a channel that is
not computed is zero. Encoders read the channels' means.
"""

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from reference_impls.core.amounts import Amount, Strength, as_amount
from reference_impls.core.masks import prunable_weights
from reference_impls.core.per_input import dense, macs_per_example

UNIT = "channel"
GROUP = "layer"
AMOUNTS = (Strength,)
NETWORK = "convnet"
# identity_at_zero does not hold: an agent that has learned nothing decides anything; weights_only does not hold: what is computed depends
# on each input; no shrinks: all channels stay, for the inputs that need them; no exact_count: a price is given, no number
TRAITS: frozenset[str] = frozenset()

CODE = 16


class Agent(nn.Module):
    """Walks through the network with each image: codes of feature maps -> values of the actions, and the action taken."""

    def __init__(self, groups: int, exploration: float) -> None:
        super().__init__()
        self.recurrent, self.decoder = nn.LSTMCell(CODE, CODE), nn.Linear(CODE, groups)
        self.exploration = exploration
        self.restart()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "state": None, "taken": []}  # they hang on a graph, which cannot be copied

    def restart(self) -> None:
        """Forget the batch before: at the beginning of every forward pass."""
        self.state: tuple[Tensor, Tensor] | None = None
        self.taken: list[tuple[Tensor, Tensor]] = []  # values (examples, actions) and action (examples,) of each layer

    def forward(self, code: Tensor) -> Tensor:
        """(examples, code) -> the action of each example, 0 to groups - 1."""
        self.state = self.recurrent(code, self.state)
        values = self.decoder(self.state[0])
        action = values.argmax(1)
        if self.training:
            explored = torch.rand(len(action), device=action.device) < self.exploration
            action = torch.where(explored, torch.randint_like(action, values.shape[1]), action)
        self.taken.append((values, action))
        return action


class GroupedConvolution(nn.Conv2d):
    """A convolution, with its normalization if it has one, that computes as many groups of output channels as the agent says."""

    def __init__(self, convolution: nn.Conv2d, normalization: nn.Module, agent: Agent) -> None:
        given = {name: getattr(convolution, name) for name in ("stride", "padding", "dilation", "padding_mode")}
        super().__init__(convolution.in_channels, convolution.out_channels, convolution.kernel_size, **given, device="meta")
        self.weight, self.bias = convolution.weight, convolution.bias
        self.normalization, self.agent = normalization, agent
        self.encoder = nn.Linear(self.in_channels, CODE).to(self.weight)
        self.computed: Tensor | None = None  # channels of the last batch, (examples,)

    def forward(self, inputs: Tensor) -> Tensor:
        action = self.agent(self.encoder(inputs.detach().mean((2, 3))).relu())
        groups = self.agent.decoder.out_features
        self.computed = (action + 1) * self.out_channels // groups
        channels = torch.arange(self.out_channels, device=inputs.device) < self.computed[:, None]
        return self.normalization(super().forward(inputs)) * channels[:, :, None, None]


class RuntimePruning(nn.Module):
    """A network with an agent that decides, for each image and layer, how many channels are computed."""

    def __init__(self, network: nn.Module, agent: Agent, price: float, loss_weight: float, discount: float) -> None:
        super().__init__()
        self.network, self.agent = network, agent
        self.price, self.loss_weight, self.discount = price, loss_weight, discount

    def forward(self, *inputs: Tensor) -> Tensor:
        self.agent.restart()
        return self.network(*inputs)

    def penalty(self) -> float:
        """Zero: the price of channels stands in the agent's rewards, see `loss`."""
        return 0.0

    def rewards(self, losses: Tensor) -> list[Tensor]:
        """What each layer's action of the last batch earned, (examples,) each; `losses`: the loss of each example."""
        # r_t = -price a_t, and - alpha L besides for the last
        earned = [-self.price * action.to(losses) for _, action in self.agent.taken]
        return [*earned[:-1], earned[-1] - self.loss_weight * losses.detach()]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy for the network, and for the agent the squared error of its values."""
        losses = F.cross_entropy(outputs, targets, reduction="none")
        taken, error = self.agent.taken, 0.0
        for layer, reward in enumerate(self.rewards(losses)):
            values, action = taken[layer]
            after = taken[layer + 1][0].detach().amax(1) if layer + 1 < len(taken) else 0.0
            # (r_t + gamma max_a Q(s_{t+1}, a) - Q(s_t, a_t))^2
            error = error + (reward + self.discount * after - values.gather(1, action[:, None])[:, 0]).square().mean()
        return losses.mean() + error

    def macs(self, inputs: Tensor) -> Tensor:
        """Multiply-accumulates of convolutions, linear layers and agent that each example needs: (examples,).

        An input channel that is zero everywhere costs a gated convolution nothing.
        """
        step = sum(weight.numel() for name, weight in self.agent.recurrent.named_parameters() if name.startswith("weight"))
        encoders = {layer.encoder for layer in self.modules() if isinstance(layer, GroupedConvolution)}

        def cost(layer: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor | int:
            if isinstance(layer, GroupedConvolution):
                read = (inputs != 0).any(3).any(2).sum(1)
                return read * layer.computed * outputs[0, 0].numel() * layer.weight[0, 0].numel()
            return dense(layer, outputs) + step * (layer in encoders)

        return macs_per_example(self, inputs, cost)


def wrap(
    model: nn.Module,
    amount: Amount,
    *,
    groups: int = 4,
    loss_weight: float = 1.0,
    discount: float = 1.0,
    exploration: float = 0.1,
    generator: torch.Generator | None = None,
) -> RuntimePruning:
    """A copy of the model whose convolutions, all but the first, ask an agent; train it with its own `loss`.

    Args:
        model: traceable by `torch.fx`; grouped convolutions stay as they are.
        amount: the price of one more group in one layer, in units of the loss.
        groups: k, >= 2; a convolution of fewer output channels stays as it is.
        loss_weight: alpha. discount: gamma, in [0, 1].
        exploration: how often a random action is taken in training, in [0, 1].
        generator: draws the agent's first weights.

    Raises:
        ValueError: `amount` is no strength, `groups` is below 2, a weight is NaN or infinite, or no convolution can be gated.
    """
    price = as_amount(amount, Strength).factor
    if groups < 2:
        raise ValueError(f"groups: {groups} leaves nothing to choose")
    weight = next(iter(prunable_weights(model).values()))
    network, agent = copy.deepcopy(model), Agent(groups, exploration).to(weight)
    modules = dict(network.named_modules())
    nodes = [node for node in fx.symbolic_trace(network).graph.nodes if isinstance(modules.get(node.target), nn.Conv2d)]
    found = [node for node in nodes[1:] if modules[node.target].groups == 1 and modules[node.target].out_channels >= groups]
    if not found:
        raise ValueError(f"model: no ungrouped convolution of at least {groups} output channels behind the first one")
    for node in found:
        normalization: nn.Module = nn.Identity()
        following = next(iter(node.users)) if len(node.users) == 1 else node
        if isinstance(modules.get(following.target), nn.BatchNorm2d):
            normalization = modules[following.target]
            network.set_submodule(following.target, nn.Identity())
        layer = GroupedConvolution(modules[node.target], normalization, agent)
        network.set_submodule(node.target, layer)
        nn.init.uniform_(layer.encoder.weight, -(layer.in_channels**-0.5), layer.in_channels**-0.5, generator=generator)
        nn.init.zeros_(layer.encoder.bias)
    for parameter in agent.parameters():
        nn.init.uniform_(parameter, -(CODE**-0.5), CODE**-0.5, generator=generator)
    return RuntimePruning(network, agent, price, loss_weight, discount).train(model.training)
