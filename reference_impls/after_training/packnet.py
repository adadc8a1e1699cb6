"""PackNet: prune after each task, and give the freed weights to the next; what a task keeps never changes again (mallya2018packnet).

Idea: a network that learns a new task overwrites the old one. But most weights of a trained network can go. So prune it, retrain what is
left, and let the next task train the freed weights only, beside the kept ones, which it uses as they are. Prune again, and so on:
several tasks share one network, each sees its own weights and those of earlier tasks, and none forgets anything.

Cost: two trainings per task after the first, and one small number per weight that says whose it is.

Implementation details, as in the authors' code
1. Of the weights that a task owns, the same fraction of each layer goes, the smallest first. They begin at zero for the next task.
2. After the first task, biases and normalizations are fixed, their statistics too; so a bias belongs to all tasks.
3. A task's network has all weights of owners up to its own number; those of later tasks are zero.

Deviations: the last task is pruned as the others are, and its freed weights wait for a next. Every linear and convolution layer is shared,
while the authors give each task a classifier of its own: tasks here have the same outputs. Among equals exactly as many go as asked, where
the authors' code prunes all up to the threshold.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import keep_highest, prunable_weights
from reference_impls.core.training import Batches, Callback, Train, needed

UNIT = "weight"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
# no identity_at_zero: what comes back holds the network and whose each weight is; no idempotent: it trains
TRAITS = frozenset({"exact_count", "fixed_mask"})

Owners = dict[str, Tensor]  # parameter name -> int64, shaped as the weight: the number of the task that owns it, from 1; 0 = free


class Packed(nn.Module):
    """One network for several tasks. As it stands it computes the last one.

    Attributes:
        network: with the weights of all tasks.
        owners: parameter name of `network` -> whose each weight is.
        tasks: how many there are.
    """

    def __init__(self, network: nn.Module, owners: Owners, tasks: int) -> None:
        super().__init__()
        self.network, self.owners, self.tasks = network, owners, tasks

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)

    @torch.no_grad()
    def for_task(self, task: int) -> nn.Module:
        """A copy of the network as a task knows it.

        Args:
            task: its number, from 1.

        Raises:
            ValueError: there is no such task.
        """
        if not 1 <= task <= self.tasks:
            raise ValueError(f"task: {task} is not between 1 and {self.tasks}")
        network = copy.deepcopy(self.network)
        for name, owner in self.owners.items():
            network.get_parameter(name).masked_fill_(owner > task, 0)
        return network


class OnlyOwn(Callback):
    """Lets a task change the weights that it owns, and nothing else; the first task its biases and normalizations as well."""

    def __init__(self, owners: Owners, task: int) -> None:
        self.owners, self.task = owners, task

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        for module in model.modules():
            if self.task > 1 and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, parameter in model.named_parameters():
            if name in self.owners:
                parameter.copy_(torch.where(self.owners[name] == self.task, parameter, self.before[name]))
            elif self.task > 1:
                parameter.copy_(self.before[name])


@torch.no_grad()
def free(model: nn.Module, owners: Owners, task: int, amount: Amount) -> Owners:
    """Whose the weights are once a task has given up its smallest, which become zero in the model.

    Args:
        task: its number, from 1.
        amount: the fraction of its weights in each layer that it gives up.
    """
    after = {}
    for name, owner in owners.items():
        weight, own = model.get_parameter(name), owner == task
        kept = keep_highest({name: weight[own].abs()}, amount)[name]
        after[name] = owner.masked_scatter(own, kept * task)
        weight.masked_fill_(own & (after[name] == 0), 0)
    return after


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    tasks: Sequence[Train] = (),
) -> Packed:
    """The packed network: the given task, then each further one.

    Args:
        model: trained on the first task.
        batches: not used; every task's training function has its own.
        amount: the fraction of a task's own weights in each layer that it frees for the next.
        train: (model, callbacks) -> model; trains the first task.
        evaluate: not used.
        tasks: the same for each further task; all tasks have the same outputs.

    Raises:
        ValueError: `amount` out of range, no `train`, or a weight is NaN or infinite.
    """
    asked, network = Sparsity(sparsity(amount)), copy.deepcopy(model)
    owners = {name: torch.ones_like(weight, dtype=torch.long) for name, weight in prunable_weights(model).items()}
    for task, learn in enumerate((needed(train), *tasks), 1):
        if task > 1:
            owners = {name: owner.masked_fill(owner == 0, task) for name, owner in owners.items()}
            network = learn(network, [OnlyOwn(owners, task)])
        owners = free(network, owners, task, asked)
        network = learn(network, [OnlyOwn(owners, task)])
    return Packed(network, owners, 1 + len(tasks))
