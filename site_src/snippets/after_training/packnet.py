import torch
from reference_impls.after_training import packnet
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

train, (inputs, targets) = digits()
turns = [0, 1, 2]  # three tasks: the digits, turned by so many quarters
data = [batches(train[0].rot90(turn, (2, 3)), train[1], 64, torch.Generator().manual_seed(0)) for turn in turns]
tasks = [lambda model, callbacks=(), own=own: fit(model, own, 5, callbacks) for own in data]
model = tasks[0](mlp((64, 100, 10), generator=torch.Generator().manual_seed(0)))
packed = packnet.prune(model, data[0], 0.6, train=tasks[0], tasks=tasks[1:])
for turn in turns:
    print(f"task {turn + 1}: accuracy {accuracy(packed.for_task(turn + 1), [(inputs.rot90(turn, (2, 3)), targets)]):.1%}")
