"""Recorded telephone prompts, the voice-activity task made of them, and Silero's network that solves it."""

from __future__ import annotations

import gzip
import warnings
import wave
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.cache import item

RATE, FRAME, CONTEXT = 16000, 512, 64
VOICES = ("en", "it", "ru", "fr")


@cache
def prompts(voice: str = "en") -> list[tuple[Path, str | None]]:
    """Recorded prompts of one speaker (Asterisk's, CC-BY-SA-3.0): [(path of the .wav, its transcript or None)]."""
    folder = next((item(f"prompts_{voice}") / "usr/share/asterisk/sounds").iterdir())
    texts: dict[str, str] = {}
    for path in item(f"prompts_{voice}").rglob("core-sounds-*.txt.gz"):
        for line in gzip.decompress(path.read_bytes()).decode("utf8", "replace").splitlines():
            name, colon, text = line.partition(":")
            if colon and not line.startswith(";") and "[" not in text:  # "[this is a simple beep tone]"
                texts[name.strip()] = text.strip()
    return [(p, texts.get(p.relative_to(folder).with_suffix("").as_posix())) for p in sorted(folder.rglob("*.wav"))]


def sound(path: Path) -> np.ndarray:
    """A prompt as float32 samples at 16 kHz in -1..1."""
    from scipy.signal import resample_poly

    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype("float32") / 32768
        rate = file.getframerate()
    return resample_poly(samples, RATE // 1000, rate // 1000).astype("float32") if rate != RATE else samples


@cache
def vad_task(decibels: float = 10, count: int = 40, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Prompts between silences, with white noise over all: [(samples at 16 kHz, 1 where a frame of 512 is speech)].

    Labels come from the clean sound's energy, with two frames of hang-over, before the noise is added.

    Args:
        decibels: speech over noise.
        count: prompts of each of the four voices.
    """
    rng = np.random.RandomState(seed)
    found = []
    for voice in VOICES:
        paths = [str(p) for p, _ in prompts(voice) if not any(w in str(p) for w in ("silence", "tone", "beep"))]
        for path in rng.permutation(paths)[:count]:
            speech = sound(Path(path))[: RATE * 8]
            if len(speech):  # some prompts are empty files
                found.append(_scene(speech, decibels, rng))
    return found


def _scene(speech: np.ndarray, decibels: float, rng: np.random.RandomState) -> tuple[Tensor, Tensor]:
    speech = speech / (np.abs(speech).max() + 1e-9) * 0.5
    scene = np.concatenate([np.zeros(rng.randint(8000, 24000)), speech, np.zeros(rng.randint(8000, 24000))])
    scene = scene[: len(scene) // FRAME * FRAME].astype("float32")
    energy = (scene.reshape(-1, FRAME) ** 2).mean(1)
    loud = np.convolve(energy > 1e-3 * np.percentile(energy, 98), np.ones(5), "same") > 0
    noise = rng.randn(len(scene)).astype("float32") * np.sqrt(energy[loud].mean() / 10 ** (decibels / 10))
    return torch.from_numpy((scene + noise).astype("float32")), torch.from_numpy(loud.astype("int64"))


def auc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve by ranks (ties share theirs)."""
    _, inverse, counts = scores.unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0).double() - (counts - 1) / 2)[inverse]
    positives = int(labels.sum())
    above = ranks[labels == 1].sum().item() - positives * (positives + 1) / 2
    return above / (positives * (len(labels) - positives))


class SileroVAD(nn.Module):
    """Silero VAD for 16 kHz as a plain module, 0.31 M parameters: samples [n, t] -> speech [n, t / 512] in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1, self.conv2 = nn.Conv1d(129, 128, 3, padding=1), nn.Conv1d(128, 64, 3, 2, 1)
        self.conv3, self.conv4 = nn.Conv1d(64, 64, 3, 2, 1), nn.Conv1d(64, 128, 3, 1, 1)
        self.lstm_cell, self.final_conv = nn.LSTMCell(128, 128), nn.Conv1d(128, 1, 1)

    def features(self, frames: Tensor) -> Tensor:
        """Frames with their context [m, 576] -> [m, 128]."""
        x = self.stft_conv(F.pad(frames, (0, CONTEXT), mode="reflect")[:, None])
        x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = conv(x).relu()
        return x.squeeze(-1)

    def forward(self, samples: Tensor) -> Tensor:
        n, count = len(samples), -(-samples.shape[1] // FRAME)
        padded = F.pad(samples, (CONTEXT, count * FRAME - samples.shape[1]))
        features = self.features(padded.unfold(1, FRAME + CONTEXT, FRAME).flatten(0, 1)).view(n, count, -1)
        state, found = (features.new_zeros(n, 128), features.new_zeros(n, 128)), []
        for t in range(count):
            state = self.lstm_cell(features[:, t], state)
            found.append(self.final_conv(state[0].relu()[..., None]).sigmoid().flatten(1).mean(1))
        return torch.stack(found, 1)


_SILERO = {"decoder.rnn.": "lstm_cell.", "decoder.decoder.2.": "final_conv."}


def silero() -> SileroVAD:
    """Silero VAD (MIT) with the weights of its TorchScript file; see `vad_task`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # old, but what the package ships
        script = torch.jit.load(item("silero") / "silero_vad/data/silero_vad.jit", map_location="cpu")
    state = {}
    for name, value in script.state_dict().items():
        if not name.startswith("_model."):  # the 8 kHz half
            continue
        name = name.removeprefix("_model.")
        if name.startswith("encoder."):
            state[f"conv{int(name.split('.')[1]) + 1}.{name.split('.')[-1]}"] = value
        elif name.endswith("forward_basis_buffer"):
            state["stft_conv.weight"] = value
        else:
            state.update({new + name.split(".")[-1]: value for old, new in _SILERO.items() if name.startswith(old)})
    network = SileroVAD()
    network.load_state_dict(state)
    return network.eval()
