"""Every form that data comes in, the parts that never mix, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lessen.data import Data, Part, load_data
from lessen.data.split import order, sizes
from lessen.errors import LessenError


def _table(n: int = 40, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Samples whose first feature is their number, so that they can be recognised."""
    x = torch.rand(n, 3, generator=torch.Generator().manual_seed(0))
    x[:, 0] = torch.arange(n)
    return x, torch.arange(n) * classes // n


def _numbers(part: Part) -> list[int]:
    return [int(v) for b in part.batches(7) for v in b.inputs[0].reshape(b.n, -1)[:, 0]]


def _file(tmp_path: Path, body: str) -> str:
    (tmp_path / "mine.py").write_text("import torch\n" + body)
    return str(tmp_path / "mine.py")


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 2000), st.integers(0, 2**40), st.integers(0, 12))
def test_splits_never_mix_and_lose_nothing(n: int, seed: int, classes: int) -> None:
    x = torch.arange(float(n))[:, None]
    data = load_data((x, torch.arange(n) % classes) if classes else x, seed=seed)
    found = [_numbers(part) for part in data.parts]
    assert sorted(v for f in found for v in f) == list(range(n))
    assert [len(f) for f in found] == list(sizes(n)) and min(map(len, found)) > 0
    assert len(found[0]) <= 300 and abs(len(found[1]) - len(found[2])) <= 1
    assert _numbers(data.calibration) != sorted(found[0]) or len(found[0]) < 10  # shuffled


@given(st.lists(st.integers(20, 60), min_size=2, max_size=6), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_splits_are_stratified(counts: list[int], seed: int) -> None:
    labels = torch.cat([torch.full((c,), i) for i, c in enumerate(counts)])
    places = order(len(labels), labels, seed)
    half = labels[places[: len(labels) // 2]].bincount(minlength=len(counts))
    assert (half - torch.tensor(counts) / 2).abs().max() <= 2


def test_labels_stay_with_their_samples() -> None:
    x, y = _table()
    for part in load_data((x, y)).parts:
        for batch in part.batches(5):
            assert batch.labels is not None
            assert torch.equal(batch.labels, y[batch.inputs[0][:, 0].long()])


def test_deterministic_and_global_generators_untouched() -> None:
    x, y = _table()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]

    def source() -> list[tuple[Tensor, Tensor]]:
        random.random(), np.random.rand()
        return list(DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True))

    first, second, other = load_data(source), load_data(source), load_data(source, seed=1)
    assert first.sha256() == second.sha256() != other.sha256()
    assert torch.equal(states[0], torch.get_rng_state()) and random.getstate() == states[2]
    assert (np.random.get_state()[1] == states[1]).all()  # type: ignore[index]


def test_sha256_sees_every_value() -> None:
    x, y = _table()
    changed = x.clone()
    changed[17, 2] += 1e-6
    assert load_data((x, y)).sha256() != load_data((changed, y)).sha256()


FORMS = """
x, y = torch.arange(40.)[:, None].repeat(1, 3), torch.arange(40) % 4
def tensors():
    return list(x.split(8))
def pairs():
    yield from zip(x.split(8), y.split(8))
def mappings():
    for a, b in zip(x.split(8), y.split(8)):
        yield {"ids": a.long(), "mask": torch.ones_like(a).long(), "labels": b}
def nested():
    return [((a, a), b) for a, b in zip(x.split(8), y.split(8))]
def many():
    return [(a, a, a) for a in x.split(8)]
def table():
    return x, y
def loader():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
def dataset():
    return torch.utils.data.TensorDataset(x, y)
"""


@pytest.mark.parametrize(
    ("name", "inputs", "labelled"),
    [
        ("tensors", 1, False),
        ("pairs", 1, True),
        ("mappings", 2, True),
        ("nested", 2, True),
        ("many", 3, False),
        ("table", 1, True),
        ("loader", 1, True),
        ("dataset", 1, True),
    ],
)
def test_forms_of_a_function(tmp_path: Path, name: str, inputs: int, labelled: bool) -> None:
    data = load_data(f"{_file(tmp_path, FORMS)}:{name}")
    assert sum(p.n for p in data.parts) == 40 and data.labelled is labelled
    assert len(data.example()) == inputs and data.example()[0].shape == (1, 3)
    assert data.names == (("ids", "mask") if name == "mappings" else ())
    if name == "mappings":
        assert next(data.test.batches(2)).by_name["mask"].dtype == torch.int64


def test_like_tells_two_inputs_from_input_and_labels() -> None:
    batches = [(torch.rand(10, 3), torch.rand(10, 3))] * 2
    assert load_data(batches).labelled
    two = load_data(batches, like=(torch.rand(1, 3), torch.rand(1, 3)))
    assert not two.labelled and len(two.example()) == 2


def test_like_matches_names() -> None:
    batch = {"mask": torch.ones(12, 5).long(), "extra": torch.ones(12), "ids": torch.full((12, 5), 7)}
    example = {"ids": torch.zeros(1, 9).long(), "mask": torch.zeros(1, 9).long()}
    data = load_data([batch], like=example)
    assert data.names == ("ids", "mask") and data.example()[0][0, 0] == 7
    with pytest.raises(LessenError, match="no input 'ids'"):
        load_data([{"mask": batch["mask"], "x2": batch["ids"]}], like=example)


def test_npz_forms(tmp_path: Path) -> None:
    x, y = (t.numpy() for t in _table())
    np.savez(tmp_path / "a.npz", x=x.astype(np.float64), y=y[:, None])
    data = load_data(tmp_path / "a.npz")
    assert data.labelled and data.example()[0].dtype == torch.float32 and data.names == ()
    np.savez(tmp_path / "b.npz", input_ids=x.astype(np.int32), token_type_ids=y.astype(np.uint16), labels=y)
    named = load_data(str(tmp_path / "b.npz"))
    assert named.names == ("input_ids", "token_type_ids") and named.example()[1].dtype == torch.int64
    np.savez(tmp_path / "c.npz", x_calibration=x[:10], x_val=x[10:20], y_val=y[10:20], x_test=x[20:], y_test=y[20:])
    apart = load_data(tmp_path / "c.npz")
    assert [sorted(_numbers(p)) for p in apart.parts] == [list(range(10)), list(range(10, 20)), list(range(20, 40))]
    assert apart.labelled and not apart.calibration.labelled


def test_missing_parts_come_from_given_ones_with_a_warning() -> None:
    x, y = _table(400)
    data = load_data({"train": (x[:200], y[:200]), "test": (x[200:], y[200:])})
    assert [p.n for p in data.parts] == [200, 100, 100]
    assert any("no validation part was given: 100 of the test samples" in w for w in data.warnings)
    assert sorted(_numbers(data.validation) + _numbers(data.test)) == list(range(200, 400))
    only = load_data({"test": x})
    assert sorted(v for p in only.parts for v in _numbers(p)) == list(range(400))


def test_small_parts_and_repeated_samples_are_told() -> None:
    x, y = _table(12)
    assert len([w for w in load_data((x, y)).warnings if w.startswith("only")]) == 3
    data = load_data({"calibration": x, "validation": x + 100, "test": torch.cat((x[:5], x + 200))})
    assert "5 of 17 test samples also lie in the calibration part" in data.warnings


def test_ragged_batches_are_put_with_their_like() -> None:
    batches = [(torch.full((4, 5 + i % 3), i), torch.full((4,), i % 2)) for i in range(12)]
    data = load_data(batches)
    assert sum(p.n for p in data.parts) == 48
    for part in data.parts:
        for size in (1, 3, 100):
            assert [int(v) for b in part.batches(size) for v in b.inputs[0][:, 0]] == _numbers(part)
        for batch in part.batches(100):
            assert batch.labels is not None and torch.equal(batch.labels, batch.inputs[0][:, 0] % 2)
    assert data.test.head(7).n == 7


def test_batches_that_cannot_be_cut() -> None:
    state = [
        {"input": torch.full((1, 8), float(i)), "state": torch.zeros(2, 1, 4), "sr": torch.tensor(16000)}
        for i in range(9)
    ]
    data = load_data(state)
    assert sum(p.n for p in data.parts) == 9
    assert [t.shape for t in data.example()] == [(1, 8), (2, 1, 4), ()]
    assert any("each batch counts as one sample" in w for w in data.warnings)


def test_shared_scalars() -> None:
    data = load_data([{"input": torch.rand(4, 8), "rate": torch.tensor(16000)}] * 3)
    assert sum(p.n for p in data.parts) == 12 and data.example(2)[1].shape == ()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_head(lengths: list[int], n: int) -> None:
    data = load_data([torch.rand(6, length) for length in lengths])
    assert data.test.head(n).n == min(n, data.test.n)


def test_preprocess_is_applied_to_each_batch() -> None:
    data = load_data(torch.arange(30.0)[:, None], preprocess=lambda inputs: (inputs[0] * 2,))
    assert sorted(v for p in data.parts for v in _numbers(p)) == list(range(0, 60, 2))


def test_a_data_passes_through() -> None:
    data = load_data(_table())
    assert isinstance(data, Data) and load_data(data) is data
    assert data.nbytes == 40 * 3 * 4 + 40 * 8 and "10 calibration" in data.describe()


BAD = float("nan")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((torch.tensor([[1.0], [2.0], [BAD], [4.0]]), None), "NaN or infinity in input 0 of sample 2 "),
        ((torch.ones(4, 2), torch.tensor([1.0, float("inf"), 1, 1])), "in labels of sample 1 "),
        ([torch.ones(3, 2), torch.tensor([[1.0, 1], [1, -float("inf")]])], "of sample 4 "),
        ((torch.ones(4, 2), torch.ones(3)), "4 samples but 3 labels"),
        ([], "no samples"),
        (torch.ones(0, 4), "no samples"),
        (torch.ones(2, 4), "2 samples can't make three parts"),
        (torch.tensor(3.0), "without a batch axis"),
        ([(torch.ones(4, 2), torch.ones(4)), torch.ones(4, 2)], "batch 1 has 1 inputs without labels, batch 0"),
        (["abc", "def"], "holds <U3, not numbers"),
        ((np.ones((4, 2)), np.array(["cat", "dog", "cat", "dog"])), "holds <U3, not numbers"),
        ({"labels": torch.ones(4)}, "no inputs"),
        ({"x": torch.ones(4, 1), "y": torch.ones(4), "labels": torch.ones(4)}, "labels twice"),
        (7, "can't read data from int"),
        ({"calibration": torch.ones(1, 2)}, "no validation samples"),
        ([{"x": object()}], "holds object, not numbers"),
        ({"test": torch.ones(4, 1), "val": [{"a": torch.ones(4)}]}, "validation has 1 inputs \\['a'\\], test 1 "),
    ],
)
def test_refuses(source: object, message: str) -> None:
    with pytest.raises(LessenError, match=message.replace("(", r"\(")) as caught:
        load_data(source)
    assert caught.value.where and caught.value.mend


@pytest.mark.parametrize(
    ("given", "like", "message"),
    [
        (torch.rand(9, 8, 8, 3), torch.rand(1, 3, 8, 8), r"channels are last: x.transpose\(0, 3, 1, 2\)"),
        (torch.rand(9, 28, 28), torch.rand(1, 1, 28, 28), r"add the channel axis: x\[:, None\]"),
        (torch.rand(9, 28, 28), torch.rand(1, 784), "flatten the samples"),
        (torch.rand(9, 20), torch.rand(1, 30), r"samples of shape \(20,\), the network takes \(30,\)"),
        (torch.rand(9, 20), torch.ones(1, 20).long(), "floats where the network takes torch.int64"),
    ],
)
def test_wrong_shapes_carry_the_mend(given: Tensor, like: Tensor, message: str) -> None:
    with pytest.raises(LessenError, match=message):
        load_data(given, like=like)


def test_lengths_may_vary_and_dtypes_follow_the_network() -> None:
    assert load_data(torch.ones(9, 20).long(), like=torch.ones(1, 7).long()).example()[0].shape == (1, 20)
    assert load_data(torch.ones(9, 3, 40, 30), like=torch.ones(1, 3, 8, 8)).example()[0].shape == (1, 3, 40, 30)
    assert load_data(torch.ones(9, 4).byte(), like=torch.ones(1, 4)).example()[0].dtype == torch.float32
    with pytest.raises(LessenError, match="1 inputs, the network takes 2"):
        load_data([torch.ones(9, 4)], like=(torch.ones(1, 4), torch.ones(1, 4)))


def test_labels_out_of_range() -> None:
    data = load_data((torch.rand(40, 3), torch.arange(40) % 5))
    data.check_against(torch.rand(2, 5))
    data.check_against(torch.rand(2, 1))  # a single probability: nothing is known of its classes
    with pytest.raises(LessenError, match=r"label 4 in the calibration part \(2 such\), the network has 4 classes"):
        data.check_against(torch.rand(2, 4))
    tokens = load_data((torch.ones(9, 6).long(), torch.full((9, 6), -100)))
    tokens.check_against(torch.rand(9, 6, 3))
    with pytest.raises(LessenError, match="label -1 "):
        load_data((torch.rand(9, 3), -torch.ones(9).long())).check_against(torch.rand(2, 4))


def test_errors_in_the_users_file(tmp_path: Path) -> None:
    file = _file(tmp_path, "def batches():\n    yield torch.ones(2, 2)\n    raise KeyError('gone')\n")
    with pytest.raises(LessenError, match=r"KeyError: 'gone'") as caught:
        load_data(f"{file}:batches")
    assert caught.value.where.endswith("mine.py:4")
    with pytest.raises(LessenError, match="did you mean 'batches'"):
        load_data(f"{file}:batchs")
    with pytest.raises(LessenError, match="no such file"):
        load_data(str(tmp_path / "other.py") + ":batches")
    (tmp_path / "broken.py").write_text("x = 1\ny = = 2\n")
    with pytest.raises(LessenError, match="SyntaxError") as caught:
        load_data(str(tmp_path / "broken.py") + ":f")
    assert caught.value.where.endswith("broken.py:2")


def test_users_file_may_import_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("SIZE = 11\n")
    file = _file(tmp_path, "from beside_it import SIZE\ndef f():\n    return torch.ones(SIZE, 2)\n")
    assert sum(p.n for p in load_data(f"{file}:f").parts) == 11


def test_unknown_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(LessenError, match="unknown kind of file"):
        load_data(tmp_path / "a.csv")
    with pytest.raises(LessenError, match="no such file or folder"):
        load_data("nowhere")


def test_arrays_are_not_copied_and_batches_are() -> None:
    x, y = _table(64)
    for source, owner in ((x, x), (x.numpy(), x), (list(x.split(16)), x)):
        data = load_data(source)
        lies = {p.untyped_storage().data_ptr() for b in data.test.blocks for piece in b.pieces for p in piece.inputs}
        assert lies <= {owner.untyped_storage().data_ptr()}
        batch = next(data.test.batches(4)).inputs[0]
        assert batch.data_ptr() != owner.data_ptr() and batch.is_contiguous()
    assert load_data((x, y)).sha256() == load_data(list(zip(x.split(9), y.split(9), strict=True))).sha256()


def test_samples_out_of_several_batches_come_in_their_order() -> None:
    x, y = _table(50)
    whole, pieces = load_data((x, y)), load_data(list(zip(x.split(7), y.split(7), strict=True)))
    for part, other in zip(whole.parts, pieces.parts, strict=True):
        for a, b in zip(part.batches(6), other.head(part.n).batches(6), strict=True):
            assert torch.equal(a.inputs[0], b.inputs[0]) and torch.equal(a.labels, b.labels)


def test_arrays_that_can_not_be_written_are_taken_as_they_are() -> None:
    x = np.arange(40, dtype=np.float32)[:, None].copy()
    x.flags.writeable = False
    assert sorted(v for part in load_data(x).parts for v in _numbers(part)) == list(range(40))
