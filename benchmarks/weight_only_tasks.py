"""The networks of weight_only: what they are calibrated on, which of their weights are rounded, how they are judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from lessen.data.scores import spearman
from zoo.whisper import END, NO_TIMES, START

Figures = dict[str, tuple[Tensor | float, str]]


@dataclass(frozen=True, eq=False)
class Task:
    """A network and its data.

    Args:
        model: in float32.
        batches: calibration samples, keyword arguments of the network.
        held_out: the same, of other samples, for second moments only.
        stacks: paths of the blocks, in the order in which they run; all linear layers in them are rounded.
        judge: figures of a network: name -> (a value for each sample, or one value; unit). Less is better; `loss` is
            the difference to the float network's.
    """

    model: nn.Module
    batches: Sequence[dict[str, Any]]
    held_out: Sequence[dict[str, Any]]
    stacks: tuple[tuple[str, ...], ...]
    judge: Callable[[nn.Module], Figures]

    def linears(self) -> dict[str, nn.Linear]:
        """The layers to round, by path."""
        blocks = tuple(f"{p}." for stack in self.stacks for p in stack)
        return {n: m for n, m in self.model.named_modules() if isinstance(m, nn.Linear) and n.startswith(blocks)}


class _Characters(nn.Module):
    """The character GPT, called by keyword."""

    def __init__(self, gpt: nn.Module) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, tokens: Tensor) -> Tensor:
        return self.gpt(tokens)


def character_gpt() -> Task:
    """0.83 M parameters; loss in nats a character over 201 windows of 128 from the last 5 % of the text."""
    _, tokens, test = zoo.characters()
    starts = torch.randint(len(tokens) - 128, (192, 1), generator=torch.Generator().manual_seed(0))
    windows = tokens[starts + torch.arange(128)]
    batches = [{"tokens": w} for w in windows.split(32)]
    rows = test[: len(test) // 129 * 129].view(-1, 129)[::8]

    def judge(model: nn.Module) -> Figures:
        logits = run(model)
        lost = F.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none").mean(1)
        return {"loss": (lost, "nats a character"), "kl": (_kl(before, logits).mean(1), "nats a character")}

    def run(model: nn.Module) -> Tensor:
        return torch.cat([model(tokens=r[:, :-1]) for r in rows.split(67)])

    network = _Characters(zoo.character_gpt())
    with torch.no_grad():
        before = run(network)
    stack = tuple(f"gpt.blocks.{n}" for n in range(4))
    return Task(network, batches[:4], batches[4:], (stack,), judge)


def _kl(before: Tensor, after: Tensor) -> Tensor:
    """KL divergence of each token's distribution from the float network's, nats [n, t]."""
    p, q = before.log_softmax(-1), after.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def minilm() -> Task:
    """22.7 M parameters, 10.6 M of them rounded; loss in points of 100 x (1 - cosine) to the float embeddings."""
    tokenizer, model = zoo.minilm()
    texts = zoo.vader()[0]
    documents, first, second, wanted = zoo.lee()
    held = texts[1000:2000]
    before = zoo.embed(tokenizer, model, held)

    def judge(model: nn.Module) -> Figures:
        after, news = (zoo.embed(tokenizer, model, t) for t in (held, documents))
        found = (news[first] * news[second]).sum(1)
        points = 100 * spearman(torch.stack((found, wanted), 1).double())
        distance = 100 * (1 - (before * after).sum(1))
        return {"loss": (distance, "points of cosine"), "loss_spearman_lee": (-points, "points")}

    batches = [_sentences(tokenizer, texts[k : k + 128]) for k in (0, 128)]
    stack = tuple(f"encoder.layer.{n}" for n in range(6))
    return Task(model, batches[0], batches[1], (stack,), judge)


def _sentences(tokenizer: Any, texts: list[str]) -> list[dict[str, Any]]:
    """Batches of sentences of about one length, so that there is next to no padding."""
    ordered = sorted(texts, key=len)
    made = [tokenizer(ordered[k : k + 8], padding=True, truncation=True, max_length=128, return_tensors="pt")
            for k in range(0, len(ordered), 8)]  # fmt: skip
    return [dict(m) for m in made]


def whisper(calibration: int = 8, test: int = 39) -> Task:
    """37.8 M parameters, 16.5 M of them rounded; loss in nats a token of the right text (read, not written).

    Prompts are joined to windows of up to 28 s, as the encoder always works on 30 s, 51 windows in all: what isn't
    calibrated on is tested on. The word error rate is that of greedy decoding of the same windows.
    """
    model, tokenizer, extractor = zoo.whisper()
    windows = _windows(calibration + calibration // 2 + test)
    parts = windows[:calibration], windows[calibration:-test], windows[-test:]
    made = [[_speech(tokenizer, extractor, p[k : k + 4]) for k in range(0, len(p), 4)] for p in parts]
    calibrated, held, judged = made
    references = [text for _, text in parts[2]]
    before: list[Tensor] = []  # of the float network, which is judged first

    def judge(model: nn.Module) -> Figures:
        lost, divergence, heard = [], [], []
        for n, batch in enumerate(judged):
            ids = batch["decoder_input_ids"]
            encoded = model.model.encoder(batch["input_features"])
            heard.append(encoded.last_hidden_state)
            logits = model(encoder_outputs=encoded, decoder_input_ids=ids).logits[:, 1:-1]
            if len(before) <= n:
                before.append(logits.half())
            lost.append(_mean(F.cross_entropy(logits.transpose(1, 2), ids[:, 2:], reduction="none"), ids))
            divergence.append(_mean(_kl(before[n].float(), logits), ids))
        texts = [t for part in torch.cat(heard).split(13) for t in _greedy(model, tokenizer, part)]
        errors = 100 * zoo.word_error_rate(references, texts)
        return {
            "loss": (torch.cat(lost), "nats a token"),
            "kl": (torch.cat(divergence), "nats a token"),
            "loss_wer": (errors, "points of word error rate"),
        }

    stacks = tuple(tuple(f"model.{side}.layers.{n}" for n in range(4)) for side in ("encoder", "decoder"))
    return Task(model, calibrated, held, stacks, judge)


def _windows(count: int) -> list[tuple[np.ndarray, str]]:
    """Prompts joined, half a second between them: (sound, text)."""
    spoken = [(p, t) for p, t in zoo.prompts("en") if t and not any(w in str(p) for w in ("silence", "tone", "beep"))]
    order = iter(np.random.RandomState(0).permutation(len(spoken)))
    made: list[tuple[np.ndarray, str]] = []
    sounds: list[np.ndarray] = []
    texts: list[str] = []
    while len(made) < count:
        path, text = spoken[next(order)]
        samples = zoo.sound(path)
        if len(samples) > 12 * 16000 or not len(samples):
            continue
        if sum(map(len, sounds)) + len(samples) > 27 * 16000:
            made.append((np.concatenate(sounds), " ".join(texts)))
            sounds, texts = [], []
        sounds += [samples, np.zeros(8000, "float32")]
        texts.append(text)
    return made


def _speech(tokenizer: Any, extractor: Any, windows: Sequence[tuple[np.ndarray, str]]) -> dict[str, Any]:
    features = extractor([w for w, _ in windows], sampling_rate=16000, return_tensors="pt").input_features
    rows = [[START, NO_TIMES, *tokenizer.encode(" " + t, add_special_tokens=False).ids, END] for _, t in windows]
    longest = max(map(len, rows))
    ids = torch.tensor([r + [END] * (longest - len(r)) for r in rows])
    return {"input_features": features, "decoder_input_ids": ids}


def _mean(values: Tensor, ids: Tensor) -> Tensor:
    """Mean over each row's text, up to and with its first end."""
    inside = (ids[:, 2:] != END).int()
    inside = torch.cat([torch.ones_like(inside[:, :1]), inside[:, :-1]], 1).cumprod(1)
    return (values * inside).sum(1) / inside.sum(1)


def _greedy(model: nn.Module, tokenizer: Any, heard: Tensor, longest: int = 160) -> list[str]:
    """Texts of what the encoder made of some windows, [n, t, d]."""
    count = len(heard)
    current, past = torch.tensor([[START, NO_TIMES]] * count), None
    done, found = torch.zeros(count, dtype=torch.bool), []
    for _ in range(longest):
        output = model(encoder_outputs=(heard,), decoder_input_ids=current, past_key_values=past, use_cache=True)
        past, logits = output.past_key_values, output.logits[:, -1].clone()
        logits[:, NO_TIMES + 1 :] = -torch.inf
        current = logits.argmax(-1).masked_fill(done, END)[:, None]
        done |= current[:, 0] == END
        found.append(current)
        if done.all():
            break
    return [tokenizer.decode(r, skip_special_tokens=True).strip() for r in torch.cat(found, 1).tolist()]


TASKS: dict[str, Callable[[], Task]] = {"character_gpt": character_gpt, "minilm": minilm, "whisper_tiny": whisper}
