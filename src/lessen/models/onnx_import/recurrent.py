"""LSTM, GRU and RNN: one function on ONNX-shaped weights, and the module that holds them by direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .values import Attributes, NotNative, Op

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu, "softsign": nn.functional.softsign,
    "softplus": nn.functional.softplus,
}  # fmt: skip
_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}  # torch's gates as blocks of ONNX's
State = tuple[Tensor, ...]
Tensors = Tensor | tuple[Tensor, ...]  # one for each direction


def recurrent(
    a: Attributes, x: Tensor, w: Tensors, r: Tensors, b: Any = None, lengths: Any = None, *more: Any, fused: bool = True
) -> tuple[Tensor, ...]:
    """x [steps, batch, in], w [directions, gates*hidden, in], r [directions, gates*hidden, hidden], b [directions,
    2*gates*hidden], then initial h (and c, peepholes): y [steps, directions, batch, hidden], last h (and c).

    Without `fused` every step is a product with `w[d]` and `r[d]` themselves, which an onlooker can see.
    """
    h, c, p = (*more, None, None, None)[:3]
    flipped = bool(a.get("layout", 0))
    x = x.transpose(0, 1) if flipped else x
    h, c = (s.transpose(0, 1) if flipped and s is not None else s for s in (h, c))
    directions, hidden = len(w), r[0].shape[-1]
    b = x.new_zeros(directions, 2 * len(w[0])) if b is None else b
    start = x.new_zeros(directions, x.shape[1], hidden)
    h, c = (start if s is None else s for s in (h, c))
    runs = []
    for d in range(directions):
        one = _Direction(a, d, w[d], r[d], b[d].chunk(2), None if p is None else p[d].chunk(3), fused)
        back = a.get("direction", "forward") == "reverse" or d == 1
        runs.append(_directed(one, x, (h[d], c[d]) if a.op == "LSTM" else (h[d],), lengths, back))
    y = torch.stack([run[0] for run in runs], 1)
    last = [torch.stack(states) for states in zip(*(run[1] for run in runs))]
    if flipped:
        y, last = y.permute(2, 0, 1, 3), [s.transpose(0, 1) for s in last]
    return (y, *last)


class _Direction:
    """One direction's weights and how its step goes."""

    def __init__(self, a: Attributes, d: int, w: Tensor, r: Tensor, b: Any, p: Any, fused: bool) -> None:
        self.a, self.w, self.r, self.b, self.p, self.may_fuse = a, w, r, b, p, fused
        count = len(_DEFAULTS[a.op])
        names = (a.get("activations") or _DEFAULTS[a.op] * 2)[d * count : (d + 1) * count]
        if any(n.lower() not in _ACTIVATIONS for n in names) or a.get("activation_alpha"):
            raise NotNative(f"activations {names}")
        self.plain = names == _DEFAULTS[a.op] or (a.op == "RNN" and names == ["Relu"])
        self.relu = names == ["Relu"]
        self.f = [_ACTIVATIONS[n.lower()] for n in names]

    @property
    def fused(self) -> bool:
        """Whether torch's own kernel computes exactly this."""
        a = self.a
        special = a.get("clip") or a.get("input_forget", 0) or self.p is not None
        return self.may_fuse and self.plain and not special and (a.op != "GRU" or bool(a.get("linear_before_reset", 0)))

    def kernel(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        order, gates = _ORDER[self.a.op], GATES[self.a.op]
        weights = [torch.cat([t.chunk(gates)[i] for i in order]) for t in (self.w, self.r, *self.b)]
        state = tuple(s.unsqueeze(0) for s in state)
        options = (True, 1, 0.0, False, False, False)
        if self.a.op == "LSTM":
            y, *last = torch.lstm(x, state, weights, *options)
        else:
            fn = torch.gru if self.a.op == "GRU" else torch.rnn_relu if self.relu else torch.rnn_tanh
            y, *last = fn(x, state[0], weights, *options)
        return y, tuple(s.squeeze(0) for s in last)

    def clip(self, t: Tensor) -> Tensor:
        edge = self.a.get("clip")
        return t.clamp(-edge, edge) if edge else t

    def step(self, wx: Tensor, state: State) -> State:
        return {"LSTM": self.lstm, "GRU": self.gru, "RNN": self.rnn}[self.a.op](wx, state)

    def lstm(self, wx: Tensor, state: State) -> State:
        h, c = state
        i, o, f, g = (wx + h @ self.r.t() + self.b[1]).chunk(4, -1)
        if self.p is not None:
            i, f = i + self.p[0] * c, f + self.p[2] * c
        i = self.f[0](self.clip(i))
        f = 1 - i if self.a.get("input_forget", 0) else self.f[0](self.clip(f))
        c = f * c + i * self.f[1](self.clip(g))
        o = o if self.p is None else o + self.p[1] * c
        return self.f[0](self.clip(o)) * self.f[2](c), c

    def gru(self, wx: Tensor, state: State) -> State:
        (h,) = state
        (xz, xr, xh), (rz, rr, rh), (bz, br, bh) = wx.chunk(3, -1), self.r.chunk(3), self.b[1].chunk(3)
        z = self.f[0](self.clip(xz + h @ rz.t() + bz))
        r = self.f[0](self.clip(xr + h @ rr.t() + br))
        linear = r * (h @ rh.t() + bh) if self.a.get("linear_before_reset", 0) else (r * h) @ rh.t() + bh
        return ((1 - z) * self.f[1](self.clip(xh + linear)) + z * h,)

    def rnn(self, wx: Tensor, state: State) -> State:
        return (self.f[0](self.clip(wx + state[0] @ self.r.t() + self.b[1])),)


def _directed(one: _Direction, x: Tensor, state: State, lengths: Any, back: bool) -> tuple[Tensor, State]:
    if lengths is not None:
        return _ragged(one, x, state, lengths, back)
    y, last = _scan(one, x.flip(0) if back else x, state, None)
    return (y.flip(0) if back else y), last


def _ragged(one: _Direction, x: Tensor, state: State, lengths: Tensor, back: bool) -> tuple[Tensor, State]:
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    alive = steps < lengths
    order = torch.where(alive, lengths - 1 - steps, steps).to(torch.int64).unsqueeze(-1)
    x = torch.gather(x, 0, order.expand(-1, -1, x.shape[2])) if back else x
    y, last = _scan(one, x, state, alive)
    y = torch.gather(y, 0, order.expand(-1, -1, y.shape[2])) if back else y
    return y * alive.unsqueeze(-1), last


def _scan(one: _Direction, x: Tensor, state: State, alive: Tensor | None) -> tuple[Tensor, State]:
    if one.fused and alive is None:
        return one.kernel(x, state)
    wx, outputs = x @ one.w.t() + one.b[0], []
    for t in range(x.shape[0]):
        new = one.step(wx[t], state)
        state = new if alive is None else tuple(torch.where(alive[t].unsqueeze(-1), n, s) for n, s in zip(new, state))
        outputs.append(state[0])
    return torch.stack(outputs), state


class Recurrent(nn.Module):
    """An ONNX LSTM, GRU or RNN with `nn.LSTM`-like parameters (rows in ONNX's gate order), one set a direction.

    `weight_ih_l0` [gates*hidden, in], `weight_hh_l0` [gates*hidden, hidden], `bias_ih_l0`, `bias_hh_l0`; those of
    the second direction end in `_reverse`. Gate order: LSTM input, output, forget, cell; GRU update, reset, hidden.
    """

    def __init__(self, a: Attributes, w: Tensor, r: Tensor, b: Tensor | None) -> None:
        super().__init__()
        self.a, self.directions, self.fused = a, w.shape[0], True
        for d, end in enumerate(self.ends):
            self.register_parameter("weight_ih_l0" + end, nn.Parameter(w[d].clone()))
            self.register_parameter("weight_hh_l0" + end, nn.Parameter(r[d].clone()))
            for name, part in zip(("bias_ih_l0", "bias_hh_l0"), (None, None) if b is None else b[d].chunk(2)):
                self.register_parameter(name + end, None if part is None else nn.Parameter(part.clone()))

    @property
    def ends(self) -> tuple[str, ...]:
        return ("", "_reverse")[: self.directions]

    def of(self, name: str) -> tuple[Tensor, ...]:
        """The parameters of that name, by direction."""
        return tuple(getattr(self, name + end) for end in self.ends)

    def forward(self, x: Tensor, lengths: Any = None, *state: Any) -> tuple[Tensor, ...]:
        """x [steps, batch, in]; returns y [steps, directions, batch, hidden] and the last states."""
        pairs = zip(self.of("bias_ih_l0"), self.of("bias_hh_l0"))
        b = None if self.bias_ih_l0 is None else torch.stack([torch.cat(pair) for pair in pairs])
        w, r = self.of("weight_ih_l0"), self.of("weight_hh_l0")
        return recurrent(self.a, x, w, r, b, lengths, *state, fused=self.fused)

    def extra_repr(self) -> str:
        return f"{self.a.op}, directions={self.directions}"


OPS: dict[str, Op] = {op: Op(recurrent) for op in GATES}
