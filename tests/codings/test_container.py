"""The `.lessen` file: round trip, golden bytes, hostile input, nothing half-written."""

from __future__ import annotations

import dataclasses
import json
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lessen.codings import Codebook, Dense, Grid
from lessen.codings import container_frame as frame
from lessen.codings.container import Package, from_bytes, read_lessen, to_bytes, write_lessen
from lessen.codings.entropy import coded_size, encode_tensor
from lessen.errors import LessenError

from .packages import grid, sample, tensors

GOLDEN = Path(__file__).parents[1] / "golden"
SAMPLE = to_bytes(sample())


def check_equal(a: Package, b: Package) -> None:
    for field in ("layouts", "graph", "info"):
        assert getattr(a, field) == getattr(b, field)
    first, second = tensors(a), tensors(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        assert torch.equal(value, second[name]), name


def remade(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The sample with its manifest changed and all checksums right: what a hostile maker would send."""
    sections = frame.unframe(SAMPLE)
    manifest = json.loads(frame.unsqueeze(sections["manifest"], 1 << 20, ""))
    change(manifest)
    return frame.frame({**sections, "manifest": frame.squeeze(json.dumps(manifest).encode())})


def test_round_trip(tmp_path: Path) -> None:
    write_lessen(tmp_path / "m.lessen", sample())
    check_equal(read_lessen(tmp_path / "m.lessen"), sample())
    assert [p.name for p in tmp_path.iterdir()] == ["m.lessen"]


def test_nothing_in_it() -> None:
    check_equal(from_bytes(to_bytes(Package())), Package())


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.lessen")), ids=lambda p: p.stem)
def test_old_files_load_for_ever(path: Path) -> None:
    expected = safetensors.torch.load_file(path.with_suffix(".safetensors"))
    found = tensors(read_lessen(path))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_golden_bytes() -> None:
    """A changed output is a breaking change: raise `FORMAT_VERSION`, add a golden file, keep the old one."""
    assert (GOLDEN / f"version{frame.FORMAT_VERSION}.lessen").read_bytes() == SAMPLE


def test_is_a_safetensors_file() -> None:
    sections = safetensors.torch.load(SAMPLE)
    assert sorted(sections) == ["data", "graph", "manifest"]
    assert all(t.dtype == torch.uint8 for t in sections.values())


def test_size_on_disk_is_the_sum_of_the_coded_sizes() -> None:
    package = dataclasses.replace(sample(), edits=[])
    size = sum(map(coded_size, package.codings.values())) + sum(len(encode_tensor(t)) for t in package.others.values())
    assert size == len(frame.unframe(to_bytes(package))["data"])


def test_little_overhead() -> None:
    package = Package({f"layer{i}.conv.weight": grid(16, 72, seed=i) for i in range(30)})
    payload = sum(map(coded_size, package.codings.values()))
    assert len(to_bytes(package)) - payload < 30 * 40 + 500


def test_equal_tensors_are_stored_once() -> None:
    once, twice = (to_bytes(Package({str(i): grid(64, 64) for i in range(n)})) for n in (1, 2))
    assert len(twice) < len(once) + 40


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damage_is_noticed(data: st.DataObject) -> None:
    bad = bytearray(SAMPLE)
    for at, bit in data.draw(st.lists(st.tuples(st.integers(0, len(bad) - 1), st.integers(0, 7)), max_size=3)):
        bad[at] ^= 1 << bit
    bad = bad[: data.draw(st.integers(0, len(bad)) | st.just(len(bad)))]
    try:
        check_equal(from_bytes(bytes(bad), "x.lessen"), sample())
    except LessenError as error:
        assert str(error).startswith("x.lessen: ")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_hostile_manifest_is_an_error_or_a_package(data: st.DataObject) -> None:
    """Any value of the manifest, replaced by anything, with right checksums."""

    def change(manifest: dict[str, Any]) -> None:
        spot: Any = manifest
        while True:
            keys = sorted(spot) if isinstance(spot, dict) else list(range(len(spot)))
            key = data.draw(st.sampled_from(keys))
            inside = isinstance(spot[key], (dict, list)) and spot[key]
            if not inside or data.draw(st.integers(0, 5)) == 0:
                spot[key] = data.draw(json_values)
                return
            spot = spot[key]

    try:
        package = from_bytes(remade(change))
    except LessenError:
        return
    assert isinstance(package, Package)
    for coding in package.codings.values():
        assert coding.decode().shape == coding.shape


def _set(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = to

    return change


HOSTILE = {
    "coding kind": (
        _set("codings", "a.weight", "kind", to="grd"),
        "a.weight: unknown coding 'grd'\n.*did you mean 'grid'",
    ),
    "part number": (_set("codings", "a.weight", "parts", "scale", to=99), "a.weight.scale: there is no tensor"),
    "swapped part": (_set("codings", "a.weight", "parts", "codes", to=1), "a.weight.codes: can't be"),
    "bits": (_set("codings", "a.weight", "settings", "bits", to=2), "a.weight.codes: codes from -14 to 14 don't fit 2"),
    "bits as text": (_set("codings", "a.weight", "settings", "bits", to="x"), "a.weight: parts and settings make no"),
    "no setting": (_set("codings", "a.weight", "settings", to={}), "a.weight: .*lacks"),
    "huge shape": (_set("tensors", "shape", 0, to=[1 << 30, 1 << 30]), "more than 1024 times"),
    "large shape": (_set("tensors", "shape", 0, to=[1 << 20, 100]), "more than 1024 times"),
    "negative shape": (_set("tensors", "shape", 0, to=[-1, 5]), "impossible tensor"),
    "many dimensions": (_set("tensors", "shape", 0, to=[1] * 9), "impossible tensor"),
    "other shape": (_set("tensors", "shape", 0, to=[8, 11]), "a.weight.codes: coded data"),
    "lying size": (_set("tensors", "bytes", 0, to=1), "by the manifest"),
    "dtype": (_set("tensors", "dtype", 0, to="object"), "impossible tensor"),
    "ragged list": (_set("tensors", "dtype", to=["int8"]), "the list of tensors is damaged"),
    "deep edits": (_set("edits", to=[json.loads("[" * 200 + "]" * 200)]), "nested too deep"),
    "edit": (_set("edits", to=[5]), "'an edit' is missing in the manifest, or not a dict"),
    "missing": (lambda m: m.pop("codings"), "'codings' is missing"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_manifests_are_named(name: str) -> None:
    change, message = HOSTILE[name]
    data = remade(change)
    tracemalloc.start()
    with pytest.raises(LessenError, match=message):
        from_bytes(data)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def _framed(**metadata: str) -> bytes:
    text = json.dumps({"__metadata__": {"format": "lessen", "crc32": "0", **metadata}}).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a .lessen file"),
        (b"PK\3\4" + bytes(100), "not a .lessen file"),
        (SAMPLE[:-1], "outside the file"),
        (SAMPLE + b"x", "don't fill the file"),
        (b"\xff" * 8 + b"{}", "not a .lessen file"),
        (safetensors.torch.save({"w": torch.zeros(3)}), "a safetensors file, but not a .lessen file"),
        (_framed(format_version="3"), "made by a newer lessen: format 3.*\n.*pip install -U lessen"),
        (_framed(format_version="0"), "impossible format version"),
        (_framed(format_version="²"), "impossible format version"),
        (_framed(format_version="1"), "sections are missing"),
        (SAMPLE[:8] + b"[" * (len(SAMPLE) - 8), "not readable JSON"),
    ],
    ids=["empty", "zip", "truncated", "longer", "lying header", "plain", "newer", "zero", "odd", "bare", "nested"],
)
def test_other_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(LessenError, match=f"x: (?s:.)*{message}"):
        from_bytes(data, "x")


def test_overlapping_sections() -> None:
    size = int.from_bytes(SAMPLE[:8], "little")
    header = json.loads(SAMPLE[8 : 8 + size])
    header["data"]["data_offsets"] = header["manifest"]["data_offsets"]
    text = json.dumps(header).encode()
    with pytest.raises(LessenError, match="'data' lies outside the file or over another"):
        from_bytes(len(text).to_bytes(8, "little") + text + SAMPLE[8 + size :])


def test_bombs_are_not_unfolded() -> None:
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = squeezer.compress(bytes(100 << 20)) + squeezer.flush()
    tracemalloc.start()
    for sections in ({"manifest": bomb, "data": b""}, {**frame.unframe(SAMPLE), "graph": bomb}):
        with pytest.raises(LessenError, match="unfolds to more than"):
            from_bytes(frame.frame(sections))
    assert tracemalloc.get_traced_memory()[1] < 160 << 20
    tracemalloc.stop()


def test_a_damaged_tensor_is_named() -> None:
    sections = frame.unframe(SAMPLE)
    data = bytearray(sections["data"])
    data[30] ^= 1
    with pytest.raises(LessenError, match=r"f\.lessen: a\.weight\.codes: damaged"):
        from_bytes(frame.frame({**sections, "data": bytes(data)}), "f.lessen")


@pytest.mark.parametrize(
    ("package", "message"),
    [
        (Package({"w": Dense(torch.tensor([[float("nan")]]))}), "w.values: has values that are not finite"),
        (Package({"w": Grid(torch.full((1, 1), 9).char(), torch.ones(1, 1), torch.zeros(1, 1), 4)}), "zero_point|9"),
        (Package(others={"z": torch.zeros(1, dtype=torch.complex64)}), "complex64"),
        (Package(info={"x": float("nan")}), "must be JSON"),
        (Package(info={"x": torch.zeros(1)}), "must be JSON"),
        (Package(edits=[{"$tensor": 1}]), r"can't have a key '\$tensor'"),
        (Package(graph=bytes((64 << 20) + 1)), "too large"),
        (Package(others={"z": torch.zeros(1 << 25, dtype=torch.bool)}), "more than 1024 times"),
    ],
    ids=["nan", "codes", "complex", "nan info", "tensor info", "key", "graph", "empty giant"],
)
def test_what_could_not_be_read_is_not_written(package: Package, message: str, tmp_path: Path) -> None:
    with pytest.raises(LessenError, match=message):
        write_lessen(tmp_path / "x.lessen", package)
    assert not list(tmp_path.iterdir())


def test_index_outside_the_codebook_and_nan_scale_in_a_file() -> None:
    good = Package({"w": Codebook(torch.tensor([[0, 1]]).byte(), torch.tensor([[1.0, 2.0]]))})
    sections = frame.unframe(to_bytes(good))
    manifest = json.loads(frame.unsqueeze(sections["manifest"], 1 << 20, ""))
    for part, bad, message in (
        ("indices", torch.tensor([[0, 7]]).byte(), "w: index 7 is outside"),
        ("centroids", torch.tensor([[1.0, float("nan")]]), "w.centroids: has values that are not finite"),
    ):
        number = manifest["codings"]["w"]["parts"][part]
        payloads = [encode_tensor(bad if k == part else v) for k, v in sorted(good.codings["w"].parts().items())]
        table = {**manifest["tensors"], "bytes": [len(p) for p in payloads], "crc32": [zlib.crc32(p) for p in payloads]}
        assert table["dtype"][number] == {"indices": "uint8", "centroids": "float32"}[part]
        text = frame.squeeze(json.dumps({**manifest, "tensors": table}).encode())
        with pytest.raises(LessenError, match=message):
            from_bytes(frame.frame({"manifest": text, "data": b"".join(payloads)}))


def test_a_full_disk_damages_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.lessen"
    write_lessen(path, Package(info={"first": 1}))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(LessenError, match="No space left on device"):
        write_lessen(path, sample())
    assert read_lessen(path).info == {"first": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["m.lessen"]


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(LessenError, match="there is no such file"):
            read_lessen(path)
    for name in ("", ".", "a\0b"):
        with pytest.raises(LessenError, match="is not a name for a file"):
            write_lessen(name, Package())
    (tmp_path / "file").touch()
    for folder in ("none", "file"):
        with pytest.raises(LessenError, match="can't be written"):
            write_lessen(tmp_path / folder / "x.lessen", Package())


@pytest.mark.slow
def test_fast_enough() -> None:
    coding = grid(2000, 2500)
    begin = time.process_time()
    coded_size(coding)
    assert time.process_time() - begin < 2
