"""Speech and tones: the networks of int8_zoo that listen."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from int8_tasks import Run, Task
from torch import Tensor, nn

import zoo
from zoo.speech import CONTEXT, FRAME, auc

FRAMES, AT_ONCE = 32, 16
VOICES, RATE = 48, 22050


def silero() -> Task:
    """Voice activity, a second at a time: the area under the ROC curve over all frames."""
    scenes = zoo.vad_task(count=60)
    size = FRAMES * FRAME
    parts = {}
    for n, (name, share) in enumerate({"calibration": (0,), "validation": (1,), "test": (2, 3, 4)}.items()):
        mine = [s for i, s in enumerate(scenes) if i % 5 in share]
        x = torch.cat([s[: len(s) // size * size].view(-1, size) for s, _ in mine])
        y = torch.cat([t[: len(t) // FRAMES * FRAMES].view(-1, FRAMES) for _, t in mine])
        parts[name] = (x[:100], y[:100]) if n == 0 else (x, y)
    return Task(zoo.silero(), parts, frames_auc, f"AUC over {parts['test'][1].numel()} frames of speech at 10 dB")


def frames_auc(outputs: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve, all frames together."""
    return auc(outputs.flatten().float(), labels.flatten())


frames_auc.unit = "points"  # type: ignore[attr-defined]


def silero_onnx() -> Task:
    """The same from Silero's own file: a frame and the state after the frames before it, 16 scenes side by side."""
    path = str(zoo.onnx_files()["silero_vad"])
    scenes = [s for s in zoo.vad_task(count=60) if len(s[1]) >= 80]
    parts: dict[str, Any] = {}
    for n, name in enumerate(("calibration", "validation", "test")):
        parts[name] = _streamed(path, scenes[n * AT_ONCE : (n + 1) * AT_ONCE], 24 if n == 0 else 80)
    return Task(path, parts, frames_auc, f"AUC over {80 * AT_ONCE} frames, states as the original has them")


def _streamed(path: str, scenes: list[tuple[Tensor, Tensor]], count: int) -> list[dict[str, Tensor]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    samples = torch.stack([nn.functional.pad(s[: count * FRAME], (CONTEXT, 0)) for s, _ in scenes])
    labels = torch.stack([t[:count] for _, t in scenes])
    state, rate, found = torch.zeros(2, len(scenes), 128), torch.tensor(16000), []
    for n in range(count):
        frame = samples[:, n * FRAME : (n + 1) * FRAME + CONTEXT].contiguous()
        found.append({"input": frame, "state": state, "sr": rate, "labels": labels[:, n]})
        state = torch.from_numpy(session.run(None, {k: found[-1][k].numpy() for k in ("input", "state", "sr")})[1])
    return found


class Encoder(nn.Module):
    """Whisper's encoder: log-mel spectra [n, 80, 3000] -> [n, 1500, 384]."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, spectra: Tensor) -> Tensor:
        return self.encoder(spectra).last_hidden_state


def whisper_encoder() -> Task:
    """Whisper tiny.en's encoder; the float decoder then says what was heard."""
    model, tokenizer, extractor = zoo.whisper()
    spoken = [(p, t) for p, t in zoo.prompts() if t and 4 < len(t.split()) < 14]
    sounds = [zoo.sound(p) for p, _ in spoken[: 24 + 16 + VOICES]]
    spectra = extractor(sounds, sampling_rate=16000, return_tensors="pt").input_features
    cuts = {"calibration": spectra[:24], "validation": spectra[24:40], "test": spectra[40:]}
    parts = {name: list(x.split(4)) for name, x in cuts.items()}
    texts = [t for _, t in spoken[40 : 40 + VOICES]]

    def more(run: Run) -> dict[str, tuple[float, str]]:
        said = _transcribed(model, tokenizer, extractor, sounds[40:], run)
        return {"word_error_rate": (100 * zoo.word_error_rate([str(t) for t in texts], said), f"% of {VOICES} prompts")}

    says = f"100 x (1 - cosine) of the encodings of {VOICES} prompts"
    return Task(Encoder(model.model.encoder).eval(), parts, "cosine", says, True, more)


def _transcribed(model: nn.Module, tokenizer: Any, extractor: Any, sounds: list[np.ndarray], run: Run) -> list[str]:
    """`zoo.transcribe` with another encoder in the network's place."""
    own = model.model.encoder.forward

    def forward(spectra: Tensor, **_: Any) -> tuple[Tensor]:
        return (torch.cat([torch.as_tensor(run((x,))[0]) for x in spectra.split(4)]),)

    model.model.encoder.forward = forward
    try:
        return zoo.transcribe(model, tokenizer, extractor, sounds)
    finally:
        model.model.encoder.forward = own


def basic_pitch() -> Task:
    """Which notes sound? Chords of decaying harmonic tones; agreement with the original's onsets."""
    x = {name: torch.stack([_chord(s * 1000 + n) for n in range(count)])[..., None]
         for s, (name, count) in enumerate({"calibration": 48, "validation": 48, "test": 100}.items())}  # fmt: skip
    says = "100 x (1 - cosine) of the onsets of 100 chords"
    return Task(str(zoo.onnx_files()["basic_pitch"]), x, "cosine", says)


def _chord(seed: int, length: int = 43844) -> Tensor:
    """Two seconds of some notes, each struck at its own time."""
    rng, t = np.random.default_rng(seed), np.arange(length) / RATE
    sound = np.zeros(length)
    for _ in range(rng.integers(2, 7)):
        pitch, start, fade = 440 * 2 ** ((rng.integers(36, 84) - 69) / 12), rng.uniform(0, 1.6), rng.uniform(1, 6)
        on = np.clip((t - start) * 200, 0, 1) * np.exp(-fade * np.maximum(t - start, 0))
        sound += on * sum(np.sin(2 * np.pi * pitch * k * t) / k**1.5 for k in range(1, 7) if pitch * k < RATE / 2)
    return torch.from_numpy((sound / np.abs(sound).max() * 0.6 + 0.002 * rng.standard_normal(length)).astype("float32"))
