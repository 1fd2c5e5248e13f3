"""Layers read from the graph, and batch norms folded into them."""

import pytest
import torch
from torch import nn

from lessen.models import fold_and_trace, fold_batchnorm, trace
from lessen.models.equalize import seams


def _seeded(module):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for t in module.state_dict().values():
            if t.is_floating_point():
                t.copy_(torch.rand(t.shape, generator=generator) * 0.5 + 0.1)
    return module.eval()


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.b1 = nn.BatchNorm2d(8)
        self.dw = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.b2 = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2, groups=2)
        self.b3 = nn.BatchNorm2d(6)
        self.raw = nn.Parameter(torch.rand(6, 5))
        self.rnn = nn.LSTM(5, 4, batch_first=True)
        self.mha = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        x = self.b1(self.c1(x)).relu()
        x = self.b3(self.up(self.b2(self.dw(x)))).mean(-1).transpose(1, 2) @ self.raw
        x = self.rnn(x)[0]
        return self.mha(x, x, x, need_weights=False)[0]


def test_every_kind_of_layer_is_found_with_its_macs():
    net = _seeded(Mixed())
    traced = trace(net, (torch.rand(2, 3, 8, 8),))
    kinds = {layer.name: layer.kind for layer in traced.layers}
    assert kinds["c1.weight"] == kinds["dw.weight"] == "conv"
    assert kinds["up.weight"] == "conv_transpose"
    assert kinds["raw"] == kinds["mha.in_proj_weight"] == kinds["mha.out_proj.weight"] == "linear"
    assert kinds["rnn.weight_ih_l0"] == kinds["rnn.weight_hh_l0"] == "recurrent"
    by_name = {layer.name: layer for layer in traced.layers}
    assert by_name["c1.weight"].macs == 8 * 8 * 8 * 27
    assert by_name["dw.weight"].macs == 8 * 8 * 8 * 9
    assert by_name["up.weight"].macs == 8 * 8 * 8 * 3 * 4
    assert by_name["raw"].out_axis == 1 and by_name["raw"].macs == 16 * 6 * 5
    assert traced.share > 0.8 and not traced.left


def test_batch_norms_behind_layers_are_folded_exactly():
    net, x = _seeded(Mixed()), torch.rand(2, 3, 8, 8)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    folded, gone = fold_batchnorm(net, (x,))
    assert set(gone) == {"b1", "b2", "b3"}
    assert isinstance(folded.b1, nn.Identity)
    torch.testing.assert_close(folded(x), net(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_a_batch_norm_with_another_reader_before_it_stays():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.b = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, x):
            y = self.c(x)
            return self.b(y) + y

    net = _seeded(Shared())
    assert fold_batchnorm(net, (torch.rand(1, 1, 5, 5),)) == (net, ())


def test_what_cannot_be_exported_is_found_by_module_type():
    class Branchy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.rnn = nn.Linear(4, 4), nn.LSTMCell(4, 4)

        def forward(self, x):
            if float(self.a(x).sum()) > 0:
                x = x + 1
            return self.rnn(self.a(x))[0]

    traced = trace(_seeded(Branchy()), (torch.rand(2, 4),))
    assert traced.graph is None and "torch.export" in traced.why
    assert {layer.name for layer in traced.layers} == {"a.weight", "rnn.weight_ih", "rnn.weight_hh"}


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_are_one_layer(tied):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
            if tied:
                self.head.weight = self.e.weight

        def forward(self, x):
            return self.head(self.e(x))

    traced = trace(_seeded(Tied()), (torch.tensor([[1, 2, 3]]),))
    assert len(traced.layers) == (1 if tied else 2)
    assert traced.share > 0.99


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        y = self.linear(x)
        return y.relu() if y.sum() > 0 else y


def test_a_network_that_cannot_be_exported_says_so_once_and_in_the_trace(capfd):
    traced = trace(Branching(), (torch.rand(2, 4),))
    assert traced.graph is None and "data-dependent" in traced.why and [x.name for x in traced.layers]
    assert capfd.readouterr() == ("", "")


def test_what_is_folded_is_traced_as_if_it_were_exported_again():
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))
    for net, count in ((_seeded(Mixed()), 3), (_seeded(chain), 2)):
        x = torch.rand(2, 3, 8, 8)
        folded, norms, traced = fold_and_trace(net, (x,))
        again = trace(folded, (x,))
        assert len(norms) == count and traced.left == again.left and traced.share == pytest.approx(again.share)
        assert [(a.name, a.macs, a.details) for a in traced.layers] == [
            (a.name, a.macs, a.details) for a in again.layers
        ]
        assert all(a.weight.data_ptr() == b.weight.data_ptr() for a, b in zip(traced.layers, again.layers, strict=True))
        assert seams(traced, folded) == seams(again, folded)
        traced.graph.lint()
