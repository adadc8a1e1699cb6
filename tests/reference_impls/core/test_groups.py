"""Dependency groups: index sets by hand, whole networks against Torch-Pruning, and what must be refused."""

import warnings

import pytest
import torch
import torch_pruning
from torch import nn
from torch.nn import functional as F

from reference_impls.core.groups import Group, dependency_groups
from reference_impls.zoo import networks

IMAGES = torch.zeros(2, 1, 8, 8)
IDS = torch.zeros(2, 5, dtype=torch.int64)


class Net(nn.Module):
    """Layers by name, and a forward pass written where the test stands."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


def conv(inward, outward, **options):
    return nn.Conv2d(inward, outward, 1, **options)


def sets(group: Group) -> dict[str, dict[tuple[str, int], list]]:
    """The group as plain lists: units per index of every producer and consumer."""
    return {
        "producers": {(m.tensor, m.dim): m.units.tolist() for m in group.producers},
        "consumers": {(m.tensor, m.dim): m.units.tolist() for m in group.consumers},
    }


def by_name(model, *inputs):
    return {group.name: group for group in dependency_groups(model, *inputs)}


def test_two_linear_layers():
    (group,) = dependency_groups(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(1, 4))
    assert (group.name, group.size, group.exact, group.attributes) == ("0", 3, True, ())
    assert sets(group) == {
        "producers": {("0.weight", 0): [0, 1, 2], ("0.bias", 0): [0, 1, 2]},
        "consumers": {("2.weight", 1): [0, 1, 2]},
    }


def test_flattening_repeats_a_channel_over_its_pixels():
    model = nn.Sequential(conv(1, 2), nn.BatchNorm2d(2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    (group,) = dependency_groups(model, torch.zeros(1, 1, 4, 4))
    assert sets(group) == {
        "producers": {
            ("0.weight", 0): [0, 1],
            ("0.bias", 0): [0, 1],
            **{(f"1.{name}", 0): [0, 1] for name in ("weight", "bias", "running_mean", "running_var")},
        },
        "consumers": {("4.weight", 1): [0, 0, 0, 0, 1, 1, 1, 1]},
    }


def test_flattening_with_channels_last_interleaves_them():
    model = Net(lambda s, x: s.out(s.conv(x).permute(0, 2, 3, 1).flatten(1)), conv=conv(1, 2), out=nn.Linear(6, 1))
    (group,) = dependency_groups(model, torch.zeros(1, 1, 1, 3))
    assert sets(group)["consumers"] == {("out.weight", 1): [0, 1, 0, 1, 0, 1]}


def test_concatenation_shifts_indices():
    model = Net(lambda s, x: s.out(torch.cat([s.a(x), s.b(x)], 1)), a=conv(1, 2, bias=False), b=conv(1, 3, bias=False), out=conv(5, 1))
    groups = by_name(model, IMAGES)
    assert sets(groups["a"]) == {"producers": {("a.weight", 0): [0, 1]}, "consumers": {("out.weight", 1): [0, 1, -1, -1, -1]}}
    assert sets(groups["b"]) == {"producers": {("b.weight", 0): [0, 1, 2]}, "consumers": {("out.weight", 1): [-1, -1, 0, 1, 2]}}
    assert groups["b"].consumers[0].indices(1) == [3]
    assert groups["b"].consumers[0].layer == "out"


def test_a_sum_with_a_concatenation_ties_both_its_parts():
    model = Net(
        lambda s, x: s.out(torch.cat([s.a(x), s.b(x)], 1) + s.c(x)),
        **{name: conv(1, size, bias=False) for name, size in (("a", 1), ("b", 2), ("c", 3))},
        out=conv(3, 1, bias=False),
    )
    (group,) = dependency_groups(model, IMAGES)
    assert sets(group) == {
        "producers": {("a.weight", 0): [0], ("b.weight", 0): [1, 2], ("c.weight", 0): [0, 1, 2]},
        "consumers": {("out.weight", 1): [0, 1, 2]},
    }


def test_depthwise_convolution_takes_its_filters_with_the_channel():
    model = nn.Sequential(conv(1, 2, bias=False), conv(2, 4, groups=2), conv(4, 1))
    (group,) = dependency_groups(model, IMAGES)
    assert sets(group) == {
        "producers": {("0.weight", 0): [0, 1], ("1.weight", 0): [0, 0, 1, 1], ("1.bias", 0): [0, 0, 1, 1]},
        "consumers": {("2.weight", 1): [0, 0, 1, 1]},
    }


def test_grouped_convolution_loses_the_same_places_of_every_group():
    model = nn.Sequential(conv(1, 4, bias=False), conv(4, 6, groups=2, bias=False), conv(6, 1))
    inner, outer = dependency_groups(model, IMAGES)
    assert sets(inner) == {"producers": {("0.weight", 0): [0, 1, 0, 1]}, "consumers": {("1.weight", 1): [0, 1]}}
    assert sets(outer) == {"producers": {("1.weight", 0): [0, 1, 2, 0, 1, 2]}, "consumers": {("2.weight", 1): [0, 1, 2, 0, 1, 2]}}


def test_grouped_query_heads():
    model = networks.Attention(width=8, heads=4, key_value_heads=2, bias=False)
    (group,) = dependency_groups(model, torch.zeros(1, 3, 8))
    assert (group.size, group.exact) == (2, True)
    assert group.attributes == (("", "heads"), ("", "key_value_heads"))
    assert sets(group) == {  # heads 0 and 1 read key 0, heads 2 and 3 read key 1; a head has two dimensions
        "producers": {
            ("query.weight", 0): [0, 0, 0, 0, 1, 1, 1, 1],
            ("key.weight", 0): [0, 0, 1, 1],
            ("value.weight", 0): [0, 0, 1, 1],
        },
        "consumers": {("output.weight", 1): [0, 0, 0, 0, 1, 1, 1, 1]},
    }


def test_queries_keys_and_values_of_one_layer():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads, self.head_dim = 2, 3
            self.qkv, self.proj = nn.Linear(4, 18, bias=False), nn.Linear(6, 4)

        def forward(self, x):
            batch, tokens, _ = x.shape
            query, key, value = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
            mixed = (query @ key.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1) @ value
            return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))

    (group,) = dependency_groups(Packed(), torch.zeros(2, 5, 4))
    assert sets(group) == {
        "producers": {("qkv.weight", 0): 3 * [0, 0, 0, 1, 1, 1]},
        "consumers": {("proj.weight", 1): [0, 0, 0, 1, 1, 1]},
    }
    assert group.attributes == (("", "num_heads"),)


def test_a_gated_mlp_loses_a_neuron_from_both_its_branches():
    (group,) = dependency_groups(networks.GatedMLP(2, 3), torch.zeros(1, 2))
    assert sets(group) == {
        "producers": {("gate.weight", 0): [0, 1, 2], ("up.weight", 0): [0, 1, 2]},
        "consumers": {("down.weight", 1): [0, 1, 2]},
    }


def test_a_tied_embedding_is_cut_along_its_width_and_never_along_its_vocabulary():
    groups = by_name(networks.llama_small(vocabulary=11, tied=True), IDS)
    tied = [member for group in groups.values() for member in group.members if member.tensor in ("embedding.weight", "head.weight")]
    assert [(member.tensor, member.dim) for member in tied] == [("embedding.weight", 1)]
    assert not groups["embedding"].exact  # RMS norm averages over the width


def test_a_weight_used_twice_along_both_dimensions():
    weight = nn.Linear(4, 3, bias=False)
    model = Net(lambda s, x: F.linear(torch.tanh(F.linear(x, s.code.weight)), s.code.weight.t()), code=weight)
    (group,) = dependency_groups(model, torch.zeros(1, 4))
    assert sets(group) == {"producers": {("code.weight", 0): [0, 1, 2]}, "consumers": {}}


def test_a_vocabulary_is_never_cut_even_where_the_output_sums_over_it():
    model = Net(lambda s, x: F.linear(s.embedding(x), s.embedding.weight).sum(-1), embedding=nn.Embedding(5, 3))
    (group,) = dependency_groups(model, IDS)
    assert sets(group) == {"producers": {("embedding.weight", 1): [0, 1, 2]}, "consumers": {}}


def test_equal_pieces_stay_equal():
    # chunk(2) of a layer that lost channels of its first half alone would cut in another place
    def forward(s, x):
        first, second = s.conv(x).chunk(2, 1)
        return s.a(first) + s.b(second)

    model = Net(forward, conv=conv(1, 4, bias=False), a=conv(2, 1, bias=False), b=conv(2, 1, bias=False))
    (group,) = dependency_groups(model, IMAGES)
    assert sets(group) == {
        "producers": {("conv.weight", 0): [0, 1, 0, 1]},
        "consumers": {("a.weight", 1): [0, 1], ("b.weight", 1): [0, 1]},
    }


def test_a_gated_linear_unit_loses_value_and_gate():
    model = Net(lambda s, x: s.out(F.glu(s.conv(x), 1)), conv=conv(1, 6, bias=False), out=conv(3, 1, bias=False))
    (group,) = dependency_groups(model, IMAGES)
    assert sets(group) == {"producers": {("conv.weight", 0): [0, 1, 2, 0, 1, 2]}, "consumers": {("out.weight", 1): [0, 1, 2]}}
    assert group.exact


@pytest.mark.parametrize("backend", [torch.nn.attention.SDPBackend.MATH, torch.nn.attention.SDPBackend.FLASH_ATTENTION])
def test_grouped_queries_shared_inside_the_attention_kernel(backend):
    class Shared(networks.Attention):
        def forward(self, x):
            query, key, value = (f(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for f in (self.query, self.key, self.value))
            mixed = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
            return self.output(mixed.transpose(1, 2).flatten(2))

    with torch.nn.attention.sdpa_kernel(backend):
        (group,) = dependency_groups(Shared(8, 4, 2, bias=False), torch.zeros(1, 3, 8))
    assert sets(group) == {
        "producers": {
            ("query.weight", 0): [0, 0, 0, 0, 1, 1, 1, 1],
            ("key.weight", 0): [0, 0, 1, 1],
            ("value.weight", 0): [0, 0, 1, 1],
        },
        "consumers": {("output.weight", 1): [0, 0, 0, 0, 1, 1, 1, 1]},
    }


# --- against Torch-Pruning


def peers_groups(model, inputs):
    """Its groups as sets of (layer, side), without those that hold an output of the network."""
    graph = torch_pruning.DependencyGraph().build_dependency(model, inputs, verbose=False)
    layers = {module: name for name, module in model.named_modules()}
    parameters = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = set()
    for found in graph.get_all_groups():
        members = set()
        for dependency, _ in found:
            target, out = dependency.target.module, graph.is_out_channel_pruning_fn(dependency.handler)
            if isinstance(target, nn.Parameter):
                members.add((parameters[id(target)], "out"))
            elif target in layers:
                members.add((layers[target], "out" if out else "in"))
        groups.add(frozenset(members))
    return {group for group in groups if not group & {("fc", "out"), ("head", "out"), ("classifier.2", "out")}}


def our_groups(model, inputs):
    own = dict(model.named_parameters(recurse=False))
    return {
        frozenset((m.tensor if m.tensor in own else m.layer, side) for side, ms in (("out", g.producers), ("in", g.consumers)) for m in ms)
        for g in dependency_groups(model, inputs)
    }


@pytest.mark.parametrize(
    ("build", "count"),
    [(networks.convnet, 5), (networks.resnet8, 6), (networks.densenet_small, 4), (networks.mobilenet_small, 5), (networks.vit_small, 5)],
)
def test_same_groups_as_torch_pruning(build, count):
    model = build()
    ours = our_groups(model, IMAGES)
    assert len(ours) == count
    assert ours == peers_groups(model, IMAGES)


def test_same_groups_as_torch_pruning_on_a_llama_block():
    # the peer follows neither the rotation nor shared keys, and cuts the width of the stream, which here comes from outside
    attention = networks.Attention(32, 4, causal=True, bias=False)
    block, inputs = networks.TransformerBlock(lambda: nn.RMSNorm(32), attention, networks.GatedMLP(32, 48)), torch.zeros(1, 5, 32)
    ours = our_groups(block, inputs)
    assert len(ours) == 2
    assert ours == {group for group in peers_groups(block, inputs) if ("mlp.down", "out") not in group}


def peers_indices(model, inputs):
    """(root layer, layer, side) -> (index of the root, index) pairs of its groups; where it flattens, one index per channel."""
    graph = torch_pruning.DependencyGraph().build_dependency(model, inputs, verbose=False)
    layers = {module: name for name, module in model.named_modules()}
    pairs = {}
    for found in graph.get_all_groups():
        root = layers[found[0].dep.target.module]
        for item in found:
            side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
            if item.dep.target.module in layers:
                pairs[root, layers[item.dep.target.module], side] = set(zip(item.root_idxs, item.idxs, strict=True))
    return pairs


def test_same_indices_as_torch_pruning_where_concatenation_shifts_them():
    model = networks.densenet_small()
    theirs = peers_indices(model, IMAGES)
    for group in dependency_groups(model, IMAGES):
        for side, members in (("out", group.producers), ("in", group.consumers)):
            for member in members:
                ours = {(unit, index) for index, unit in enumerate(member.units.tolist()) if unit >= 0}
                assert ours == theirs[group.name, member.layer, side]


# --- what cannot be followed


def test_inputs_and_outputs_are_in_no_group():
    assert dependency_groups(nn.Linear(3, 2), torch.zeros(1, 3)) == []


@pytest.mark.parametrize(
    ("reason", "forward", "inward"),
    [
        ("no rule for aten.cumsum", lambda s, x: s.out(s.conv(x).cumsum(1)), 4),
        ("slice", lambda s, x: s.out(s.conv(x)[:, :2]), 2),
        ("select", lambda s, x: s.out(s.conv(x).select(1, 2)[:, None]), 1),
        ("softmax", lambda s, x: s.out(s.conv(x).softmax(1)), 4),
        ("unequal pieces", lambda s, x: s.out(s.conv(x).split([1, 3], 1)[1]), 3),
        (r"view of one dimension as \(2, 2\)", lambda s, x: s.out(shuffled(s.conv(x))), 4),
        ("amax", lambda s, x: s.out(s.conv(x).amax(1, keepdim=True)), 1),
    ],
)
def test_refuses_with_a_warning_what_it_cannot_follow(reason, forward, inward):
    model = Net(forward, conv=conv(1, 4), out=conv(inward, 1))
    with pytest.warns(UserWarning, match=f"{reason}.*units of conv"):
        assert dependency_groups(model, IMAGES) == []


def shuffled(x):
    batch, channels, *image = x.shape
    return x.view(batch, 2, channels // 2, *image).transpose(1, 2).reshape(x.shape)


def test_heads_are_followed_only_where_the_module_names_them():
    class Nameless(networks.Attention):
        def __init__(self):
            super().__init__(8, 2)
            self.parts, self.size = self.heads, self.head_dim
            del self.heads, self.head_dim, self.key_value_heads

        def forward(self, x):
            query, key, value = (f(x).unflatten(-1, (self.parts, self.size)).transpose(1, 2) for f in (self.query, self.key, self.value))
            return self.output(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))

    with pytest.warns(UserWarning, match=r"view of one dimension as \(2, 4\) in Nameless.*query"):
        assert dependency_groups(Nameless(), torch.zeros(1, 3, 8)) == []


def test_multi_head_attention_of_torch_is_left_whole():
    model = Net(
        lambda s, x: s.out(s.mha(*[s.enter(x)] * 3)[0]), enter=nn.Linear(3, 4), mha=nn.MultiheadAttention(4, 2), out=nn.Linear(4, 2)
    )
    assert dependency_groups(model, torch.zeros(3, 1, 3)) == []


def test_a_constant_of_the_forward_pass_fixes_what_it_meets():
    model = Net(lambda s, x: s.out(s.conv(x) * torch.arange(4.0).view(1, 4, 1, 1)), conv=conv(1, 4), out=conv(4, 1))
    assert dependency_groups(model, IMAGES) == []


@pytest.mark.parametrize(
    ("exact", "forward"),
    [
        (True, lambda s, x: s.out(F.relu(s.conv(x)))),
        (True, lambda s, x: s.out(s.conv(x) * s.conv(x).sigmoid())),
        (False, lambda s, x: s.out(s.conv(x).sigmoid())),
        (False, lambda s, x: s.out(s.conv(x) + 1)),
        (False, lambda s, x: s.out(s.conv(x) + s.conv(x).sigmoid())),
        (True, lambda s, x: s.out(F.prelu(s.conv(x), torch.tensor([0.5])))),
        (True, lambda s, x: s.conv(x).sum(1, keepdim=True)),
        (False, lambda s, x: s.conv(x).mean(1, keepdim=True)),
        (True, lambda s, x: s.out(s.batch_norm(s.conv(x)))),
        (False, lambda s, x: s.out(s.plain_batch_norm(s.conv(x)))),
        (False, lambda s, x: s.out(s.group_norm(s.conv(x)))),
    ],
)
def test_says_where_removing_differs_from_masking(exact, forward):
    norms = {"batch_norm": nn.BatchNorm2d(4), "plain_batch_norm": nn.BatchNorm2d(4, affine=False), "group_norm": nn.GroupNorm(2, 4)}
    (group,) = dependency_groups(Net(forward, conv=conv(1, 4), out=conv(4, 1), **norms), IMAGES)
    assert group.exact is exact


def test_leaves_the_model_and_its_mode_as_they_were():
    model = networks.resnet8().train()
    model.blocks[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    dependency_groups(model, torch.randn(4, 1, 8, 8))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_error_in_the_forward_pass_leaves_no_hook_behind():
    model = networks.resnet8().train()
    with pytest.raises(RuntimeError):
        dependency_groups(model, torch.zeros(1, 3, 8, 8))
    assert model.training and not torch.nn.modules.module._global_forward_pre_hooks


def test_refuses_a_model_without_a_tensor_to_give():
    with pytest.raises(ValueError, match="output holds no tensor"):
        dependency_groups(Net(lambda s, x: float(s.a(x).sum()), a=nn.Linear(1, 1)), torch.zeros(1, 1))


def test_the_networks_of_the_zoo_are_followed_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for build in (networks.resnet8, networks.densenet_small, networks.mobilenet_small, networks.vit_small, networks.convnet):
            assert dependency_groups(build(), IMAGES)
        for build in (networks.llama_small, networks.gpt_small):
            assert dependency_groups(build(), IDS)
