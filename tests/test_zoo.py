"""The zoo's models still score what they should, and its fetcher keeps its word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch

import zoo
from zoo import fetch
from zoo.items import ITEMS, Item


@pytest.mark.parametrize(
    ("network", "floor"),
    [(zoo.lenet_300_100, 0.885), (zoo.lenet_5, 0.90), (zoo.resnet_8, 0.90), (zoo.depthwise, 0.88)],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_fashion_networks(network, floor: float) -> None:
    x, y = zoo.fashion_mnist()[2:]
    assert zoo.accuracy(network(), x[:2000], y[:2000]) > floor


def test_letters() -> None:
    x, y = zoo.letters()[2:]
    assert zoo.accuracy(zoo.letters_mlp(), x, y) > 0.96


def test_digits() -> None:
    x, y = zoo.mnist()[2:]
    assert zoo.accuracy(zoo.digit_cnn(), x, y) > 0.99


def test_character_gpt() -> None:
    tokens = zoo.characters()[2][: 129 * 64].view(64, 129)
    with torch.no_grad():
        logits = zoo.character_gpt()(tokens[:, :-1])
    assert torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()) < 1.9


def test_efficientnet() -> None:
    images = zoo.foolbox("imagenet")
    with torch.no_grad():
        found = zoo.efficientnet_lite0()(torch.cat([zoo.photo_tensor(i) for i, _ in images])).argmax(1)
    assert (found == torch.tensor([label for _, label in images])).sum() >= 18


def test_photos_are_deterministic() -> None:
    assert torch.equal(zoo.photos(3), zoo.photos(3))


def test_minilm_agrees_with_people() -> None:
    documents, first, second, similarity = zoo.lee()
    embeddings = zoo.embed(*zoo.minilm(), documents)
    ours = (embeddings[first] * embeddings[second]).sum(1)
    assert torch.corrcoef(torch.stack([ours, similarity]))[0, 1] > 0.65


def test_g2p() -> None:
    words = sorted(zoo.cmudict())[::200]
    assert zoo.word_accuracy(zoo.g2p(), words) > 0.65


def test_silero() -> None:
    scenes, network = zoo.vad_task(count=2), zoo.silero()
    with torch.no_grad():
        scores = torch.cat([network(samples[None])[0] for samples, _ in scenes])
    assert zoo.auc(scores, torch.cat([labels for _, labels in scenes])) > 0.95


def test_auc_shares_ties() -> None:
    assert zoo.auc(torch.tensor([0.1, 0.5, 0.5, 0.9]), torch.tensor([0, 0, 1, 1])) == pytest.approx(0.875)


def test_vader() -> None:
    sentences, ratings = zoo.vader()
    assert len(sentences) == len(ratings) == 10605


@pytest.mark.slow
def test_whisper() -> None:
    pairs = [(p, t) for p, t in zoo.prompts() if t and 4 < len(t.split()) < 12][:8]
    texts = zoo.transcribe(*zoo.whisper(), [zoo.sound(p) for p, _ in pairs])
    assert zoo.word_error_rate([t for _, t in pairs], texts) < 0.12


@pytest.mark.parametrize("name", ["ocr_detector", "ocr_recogniser", "ocr_direction", "silero_vad", "basic_pitch"])
def test_onnx_files_open(name: str) -> None:
    assert onnxruntime.InferenceSession(zoo.onnx_files()[name], providers=["CPUExecutionProvider"]).get_inputs()


def test_a_missing_item_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LESSEN_ZOO", str(tmp_path))
    with pytest.raises(zoo.Missing, match="make zoo"):
        zoo.item("minilm")


def _fake(monkeypatch: pytest.MonkeyPatch, cache: Path) -> list[str]:
    """A registry whose every package is one file "a/data.txt"; returns the list of downloads."""
    downloads: list[str] = []

    def download(item: Item, folder: Path) -> list[Path]:
        downloads.append(item.name)
        return [folder / "package"]

    def unpack(archive: Path, folder: Path) -> None:
        (folder / "a").mkdir()
        (folder / "a" / "data.txt").write_text("data")
        (folder / "a" / "rest.txt").write_text("not kept")

    monkeypatch.setenv("LESSEN_ZOO", str(cache))
    monkeypatch.setattr(fetch, "_download", download)
    monkeypatch.setattr(fetch, "_unpack", unpack)
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)
    return downloads


DIGEST = "92d8c4411c0f3a9e47e58a15011af29f9689374bc56b44a75051d5a60d5af3e4"
THING = Item("thing", "wheel", "thing==1", ("a/data*",), DIGEST)


def test_fetch_is_idempotent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    downloads = _fake(monkeypatch, tmp_path)
    assert "fetched" in fetch.fetch(THING)
    assert fetch.fetch(THING) == "thing: here"
    assert downloads == ["thing"]
    assert [p.name for p in (tmp_path / "thing").rglob("*.txt")] == ["data.txt"]


def test_fetch_refuses_other_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    downloads = _fake(monkeypatch, tmp_path)
    assert "MISSING" in fetch.fetch(replace(THING, digest="0" * 64))
    assert downloads == ["thing", "thing"]
    assert not (tmp_path / "thing").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".thing-")]  # nothing half-done is left


def test_fetch_refuses_an_empty_pattern(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _fake(monkeypatch, tmp_path)
    assert "no file like b/" in fetch.fetch(replace(THING, keep=("b/*",)))


def test_fetch_names_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch.main(["minilm", "maxilm"]) == 2
    assert "maxilm" in capsys.readouterr().out


def test_items_have_names_of_their_own() -> None:
    assert len({i.name for i in ITEMS}) == len(ITEMS)
