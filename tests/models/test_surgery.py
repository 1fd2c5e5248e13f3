"""Removal is real, and never silently wrong."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lessen.errors import LessenError
from lessen.models.groups import find_groups
from lessen.models.surgery import (
    Edit,
    Setting,
    Unprovable,
    apply_edits,
    shrink,
    shrink_what_works,
    shrink_with_edits,
)


def count(model):
    return sum(p.numel() for p in model.parameters())


def rough(model):
    """No zero biases, no unit scales: nothing that hides a wrong slice."""
    noise = torch.Generator().manual_seed(0)
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        if t.is_floating_point() and t.ndim == 1:
            t.data.add_(torch.rand(t.shape, generator=noise) * (1 if "var" in name else 0.4))
    return model.eval()


def halves(model, inputs):
    return {g.name: list(range(0, g.size, 2))[: g.size // 2] for g in find_groups(model, inputs).groups}


def by_hand(model, removed):
    """The oracle again, written apart: consumers' columns at zero. Exact without normalization over channels."""
    masked = copy.deepcopy(model)
    for path, columns in removed.items():
        dict(masked.named_parameters())[path].data[:, columns] = 0
    return masked


def test_the_shrunk_network_is_the_masked_one():
    torch.manual_seed(0)
    net = rough(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)))
    x = (torch.randn(2, 3, 8, 8),)
    small = shrink(net, {"0": [1, 2, 6]}, x)
    assert small[0].out_channels == 5 and small[1].num_features == 5 and small[3].in_channels == 5
    assert small[0].weight.shape == (5, 3, 3, 3) and net[0].weight.shape == (8, 3, 3, 3)
    torch.testing.assert_close(small(*x), by_hand(net, {"3.weight": [1, 2, 6]})(*x), rtol=1e-5, atol=1e-5)


class Hard(nn.Module):
    """A size in the code that is nobody's attribute."""

    def __init__(self):
        super().__init__()
        self.c, self.f = nn.Conv2d(1, 6, 3), nn.Linear(6 * 16, 3)

    def forward(self, x):
        return self.f(self.c(x).relu().view(-1, 6 * 16))


def test_sizes_in_the_code_are_put_right_in_a_graph():
    torch.manual_seed(0)
    net, x = rough(Hard()), (torch.randn(2, 1, 6, 6),)
    found = shrink_with_edits(net, {"c": [0, 5]}, x)
    assert found.form == "graph" and "shape" in found.why_graph
    columns = [*range(16), *range(80, 96)]
    other = torch.randn(3, 1, 6, 6)  # another batch size
    torch.testing.assert_close(found.model(other), by_hand(net, {"f.weight": columns})(other), rtol=1e-5, atol=1e-5)


def test_edits_do_it_again_on_the_original():
    torch.manual_seed(0)
    net = rough(nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.Conv2d(8, 8, 1, groups=4), nn.Conv2d(8, 2, 1)))
    x = (torch.randn(2, 3, 4, 4),)
    found = shrink_with_edits(net, halves(net, x), x)
    again = apply_edits(net, found.edits)
    assert torch.equal(again(*x), found.model(*x)) and count(again) < count(net)


@pytest.mark.parametrize(
    "edit, words",
    [
        (Edit("nobody", 0, (0,)), "no parameter"),
        (Edit("0.weight", 0, (0, 99)), "do not fit"),
        (Edit("0.weight", 7, (0,)), "do not fit"),
        (Edit("0.weight", 0, ()), "do not fit"),
        (Setting("9", "out_features", 3), "no module"),
        (Setting("0", "forward", 3), "no number"),
        (Setting("0", "class", "os.system"), "unknown class"),
    ],
)
def test_edits_that_do_not_fit_are_refused(edit, words):
    with pytest.raises(LessenError, match=words):
        apply_edits(nn.Sequential(nn.Linear(4, 8)), [edit])


@pytest.mark.parametrize(
    "removals, words",
    [
        ({"1st": [0]}, "no group"),
        ({"0": list(range(8))}, "all 8 units"),
        ({"0": [8]}, "group of 8"),
        ({"0": torch.tensor([-1])}, "group of 8"),
    ],
)
def test_removals_that_make_no_sense_are_refused(removals, words):
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    with pytest.raises(LessenError, match=words) as caught:
        shrink(net, removals, (torch.randn(2, 4),))
    assert caught.value.mend


def test_nothing_to_remove_gives_a_copy():
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    same = shrink(net, {"0": []}, (torch.randn(2, 4),))
    assert same is not net and count(same) == count(net)


def test_a_class_that_then_gives_other_values_is_not_trusted():
    class Sly(nn.Module):
        """Its value depends on its own width, which no tensor operation shows."""

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.b(self.a(x)) * self.a.weight.shape[0] if self.a.weight.shape[0] != 8 else self.b(self.a(x))

    with torch.no_grad():
        found = shrink_with_edits(rough(Sly()), {"a": [0, 1]}, (torch.randn(2, 4),))
    assert found.form == "graph"  # the class itself gave other values


class Moody(nn.Module):
    """A width that is checked by value while it runs, so that neither the class nor its graph can be edited."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        y = self.b(self.a(x).relu()).relu()
        if y.shape[-1] != 8 or torch.isnan(y).any().item():
            raise RuntimeError("eight, please")
        return self.c(y)


def test_what_fails_is_left_alone_and_named():
    torch.manual_seed(0)
    net, x = rough(Moody()), (torch.randn(2, 4),)
    with pytest.raises(Unprovable, match="eight, please") as caught:
        shrink(net, {"a": [0], "b": [1]}, x)
    assert "couple()" in caught.value.mend
    found, refused = shrink_what_works(net, {"a": [0], "b": [1]}, x)
    assert set(refused) == {"b"} and "eight" in refused["b"]
    assert found.model.a.out_features == 7 and found.model.b.out_features == 8
    assert net.a.out_features == 8


def test_modes_ties_and_frozen_parameters_stay():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.n, self.o = nn.Embedding(9, 8), nn.LayerNorm(8), nn.Linear(8, 9, bias=False)
            self.o.weight = self.e.weight
            self.n.weight.requires_grad_(False)

        def forward(self, i):
            return self.o(self.n(self.e(i)))

    net = Tied().train()
    small = shrink(net, {"e": [0, 3]}, (torch.tensor([[1, 2, 3]]),))
    assert small.o.weight is small.e.weight and small.e.weight.shape == (9, 6)
    assert small.training and net.training and not small.n.weight.requires_grad and small.e.weight.requires_grad


class SE(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a, self.b = nn.Conv2d(c, c // 2, 1), nn.Conv2d(c // 2, c, 1)

    def forward(self, x):
        return x * self.b(self.a(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Lambda(nn.Module):
    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.m = function, nn.ModuleList(modules)

    def forward(self, *x):
        return self.function(self.m, *x)


class Heads(nn.Module):
    """Grouped queries (`kv` < `heads`) or plain attention, by hand."""

    def __init__(self, c=16, heads=4, kv=2):
        super().__init__()
        self.heads, self.kv, self.d = heads, kv, c // heads
        self.q, self.k, self.v = nn.Linear(c, c), nn.Linear(c, kv * self.d), nn.Linear(c, kv * self.d)
        self.o = nn.Linear(c, c)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (p(x).view(b, t, -1, self.d).transpose(1, 2) for p in (self.q, self.k, self.v))
        k, v = (y.repeat_interleave(self.heads // self.kv, 1) for y in (k, v))
        y = (q @ k.mT * self.d**-0.5).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


def fused(c=16, heads=4):
    def forward(m, x):
        b, t, _ = x.shape
        q, k, v = m[0](x).reshape(b, t, 3, -1, c // heads).permute(2, 0, 3, 1, 4)
        return m[1](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, -1))

    return Lambda(forward, nn.Linear(c, 3 * c), nn.Linear(c, c))


S = nn.Sequential
IMAGE, SEQUENCE = (2, 3, 8, 8), (2, 5, 6)
STRUCTURES = {
    "transposed": (lambda: S(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv2d(6, 2, 1)), IMAGE),
    "grouped": (lambda: S(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 3, groups=4), nn.Conv2d(32, 2, 1)), IMAGE),
    "grouped transposed": (
        lambda: S(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 2, 2, groups=4), nn.Conv2d(8, 2, 1)),
        IMAGE,
    ),
    "split": (
        lambda: Lambda(
            lambda m, x: m[1](torch.cat([y * (i + 1) for i, y in enumerate(m[0](x).chunk(2, 1))], 1)),
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 2, 1),
        ),
        IMAGE,
    ),
    "gated": (lambda: S(nn.Linear(6, 32), nn.GLU(), nn.Linear(16, 3)), SEQUENCE),
    "layer norm": (lambda: S(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)), SEQUENCE),
    "rms norm": (lambda: S(nn.Linear(6, 8), nn.RMSNorm(8), nn.Linear(8, 3)), SEQUENCE),
    "group norm": (lambda: S(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.Conv2d(8, 2, 1)), IMAGE),
    "group norm of one": (lambda: S(nn.Conv2d(3, 8, 1), nn.GroupNorm(1, 8), nn.Conv2d(8, 2, 1)), IMAGE),
    "squeeze-excite": (lambda: S(nn.Conv2d(3, 8, 1), SE(8), nn.Conv2d(8, 2, 1)), IMAGE),
    "channel shuffle": (lambda: S(nn.Conv2d(3, 12, 1), nn.ChannelShuffle(3), nn.Conv2d(12, 2, 1)), IMAGE),
    "pixel shuffle": (lambda: S(nn.Conv2d(3, 16, 1), nn.PixelShuffle(2), nn.Conv2d(4, 2, 1)), IMAGE),
    "pixel unshuffle": (lambda: S(nn.Conv2d(3, 4, 1), nn.PixelUnshuffle(2), nn.Conv2d(16, 2, 1)), IMAGE),
    "flatten": (lambda: S(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 2)), IMAGE),
    "attention of torch": (
        lambda: S(nn.Linear(6, 16), nn.TransformerEncoderLayer(16, 4, 8, batch_first=True), nn.Linear(16, 2)),
        SEQUENCE,
    ),
    "attention by hand": (lambda: S(nn.Linear(6, 16), Heads(16, 4, 4), nn.Linear(16, 2)), SEQUENCE),
    "grouped queries": (lambda: S(nn.Linear(6, 16), Heads(), nn.Linear(16, 2)), SEQUENCE),
    "fused projection": (lambda: S(nn.Linear(6, 16), fused(), nn.Linear(16, 2)), SEQUENCE),
    "lstm": (
        lambda: Lambda(
            lambda m, x: m[1](m[0](x)[0]), nn.LSTM(6, 8, 2, batch_first=True, bidirectional=True), nn.Linear(16, 2)
        ),
        SEQUENCE,
    ),
    "gru": (lambda: Lambda(lambda m, x: m[1](m[0](x)[0]), nn.GRU(6, 8, batch_first=True), nn.Linear(8, 2)), SEQUENCE),
    "weight norm": (
        lambda: S(
            nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)),
            nn.ReLU(),
            nn.utils.parametrizations.weight_norm(nn.Linear(8, 2)),
        ),
        SEQUENCE,
    ),
    "zero padding": (
        lambda: Lambda(
            lambda m, x: m[2](F.pad(m[0](x), (0, 0, 0, 0, 2, 2)) + m[1](x)),
            nn.Conv2d(3, 4, 1),
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 2, 1),
        ),
        IMAGE,
    ),
    "distances": (
        lambda: Lambda(lambda m, x: torch.cdist(m[0](x), m[1](x)), nn.Linear(6, 8), nn.Linear(6, 8)),
        SEQUENCE,
    ),
    "written in place": (lambda: Lambda(_in_place, nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)), IMAGE),
}


def _in_place(m, x):
    y = m[0](x)
    out = torch.zeros_like(y)
    out[:, :, ::2] = y[:, :, ::2]
    return m[1](out.relu_())


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_shrinks(name):
    torch.manual_seed(0)
    make, shape = STRUCTURES[name]
    net, x = rough(make()), (torch.randn(shape),)
    small = shrink(net, halves(net, x), x)
    assert count(small) < 0.75 * count(net)
    assert small(*x).shape == net(*x).shape
    assert small(*x).isfinite().all()


def test_heads_go_while_the_embedding_stays():
    torch.manual_seed(0)
    net = rough(
        nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 8, batch_first=True), 2, enable_nested_tensor=False)
    )
    x = (torch.randn(2, 5, 16),)
    small = shrink(net, {"layers.0.self_attn": [0, 2, 3]}, x)
    mha = small.layers[0].self_attn
    assert mha.num_heads == 1 and mha.in_proj_weight.shape == (12, 16)
    masked = by_hand(net, {"layers.0.self_attn.out_proj.weight": [*range(4), *range(8, 16)]})
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    for arguments in ({}, {"src_key_padding_mask": padding}, {"mask": torch.triu(torch.ones(5, 5), 1).bool()}):
        torch.testing.assert_close(small(*x, **arguments), masked(*x, **arguments), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(small.layers[0].self_attn(*x * 3)[0], masked.layers[0].self_attn(*x * 3)[0])


class Random(nn.Module):
    """A chain of blocks drawn by hypothesis."""

    def __init__(self, widths, kinds):
        super().__init__()
        self.kinds, self.blocks, c = kinds, nn.ModuleList(), 3
        for width, kind in zip(widths, kinds):
            groups = {"depthwise": width, "grouped": 2}.get(kind, 1)
            first = nn.Conv2d(c, width, 1)
            second = nn.Conv2d(width, width, 3, padding=1, groups=groups)
            norm = nn.GroupNorm(2, width) if kind == "groupnorm" else nn.BatchNorm2d(width)
            self.blocks.append(nn.ModuleList([first, second, norm, SE(width)]))
            c = width * (2 if kind in {"concat", "shuffle"} else 1)
        self.head = nn.Linear(c * 4, 3)

    def forward(self, x):
        for kind, (first, second, norm, se) in zip(self.kinds, self.blocks):
            y = first(x)
            z = norm(second(y.relu()))
            if kind == "concat":
                x = torch.cat([y, z], 1)
            elif kind == "shuffle":
                x = F.channel_shuffle(torch.cat([z, y], 1), 2)
            elif kind == "se":
                x = se(z)
            elif kind == "gate":
                a, b = z.chunk(2, 1)
                x = torch.cat([a * b.sigmoid(), y[:, : a.shape[1]]], 1)
            else:
                x = y + z
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


KINDS = ["plain", "depthwise", "grouped", "groupnorm", "concat", "shuffle", "se", "gate"]


def drawn(kinds):
    return st.lists(st.tuples(st.sampled_from([4, 6, 8]), st.sampled_from(kinds)), min_size=1, max_size=4)


@settings(max_examples=8)
@given(drawn(KINDS[:-1]), st.data())
def test_random_networks_shrink_exactly(blocks, data):
    shrinks_exactly(blocks, data)


@pytest.mark.slow
@settings(max_examples=40)
@given(drawn(KINDS), st.data())  # unequal halves of a gate need a graph: seconds each
def test_many_random_networks_shrink_exactly(blocks, data):
    shrinks_exactly(blocks, data)


def shrinks_exactly(blocks, data):
    widths, kinds = zip(*blocks)
    torch.manual_seed(0)
    net, x = rough(Random(widths, kinds)), (torch.randn(2, 3, 4, 4),)
    grouping = find_groups(net, x)
    removals = {}
    for group in grouping.groups:
        units = data.draw(st.sets(st.integers(0, group.size - 1), max_size=group.size - 1))
        removals[group.name] = sorted(units)
    small = shrink(net, removals, x, grouping)  # proves itself against the oracle, or raises
    gone = sum(len(m.index[units].ravel()) for g in grouping.groups if (units := removals[g.name]) for m in g.members)
    assert (count(small) < count(net)) == (gone > 0)
    if not any(g.renormalized for g in grouping.groups if removals[g.name]):  # an oracle of our own
        consumers = {(m, 1) for g in grouping.groups for m in g.consumers}
        masked = copy.deepcopy(net)
        for group in grouping.groups:
            for member in group.members:
                if (member.path.rpartition(".")[0], member.dim) in consumers and removals[group.name]:
                    columns = torch.from_numpy(member.index[removals[group.name]].ravel())
                    dict(masked.named_parameters())[member.path].data.index_fill_(member.dim, columns, 0)
        torch.testing.assert_close(small(*x), masked(*x), rtol=1e-4, atol=1e-5)
