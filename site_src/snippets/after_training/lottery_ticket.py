import torch

from reference_impls.after_training.lottery_ticket import winning_ticket
from reference_impls.core.masks import masked
from reference_impls.core.training import HoldMasks, accuracy, fit, momentum_sgd
from reference_impls.zoo import data, networks

generator = torch.Generator().manual_seed(0)
(inputs, targets), test = data.digits()
batches = data.batches(inputs, targets, 64, generator)
train = lambda network, callbacks=(): fit(network, batches, 5, callbacks, optimizer=lambda p: momentum_sgd(p, 0.03))
ticket, masks = winning_ticket(networks.lenet_300_100(generator=generator), 0.97, train, rounds=6)
other = masked(networks.lenet_300_100(generator=generator), masks)
for name, network in (("the ticket", ticket), ("the same connections from other initial values", other)):
    print(f"{name}: {accuracy(train(network, [HoldMasks(masks)]), [test]):.1%} accuracy with 3 % of the weights")
