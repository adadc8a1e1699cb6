import torch
from reference_impls.after_training import abcpruner
from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

(inputs, targets), (test_inputs, test_targets) = digits()
train, held_out = batches(inputs[400:], targets[400:], 64), batches(inputs[:400], targets[:400], 400)
model = fit(convnet(generator=torch.Generator().manual_seed(0)), train, 3)
options = {"evaluate": lambda network: accuracy(network, held_out), "generator": torch.Generator().manual_seed(0)}
found = abcpruner.prune(model, train[:8], 0.3, train=lambda network: fit(network, train, 3), sources=6, cycles=2, epochs=1, **options)
print("channels of the convolutions", [layer.out_channels for layer in found.features if hasattr(layer, "out_channels")])
for network in (model, found):
    print(counting.report(network, inputs[:1]), f"accuracy {accuracy(network, [(test_inputs, test_targets)]):.1%}")
