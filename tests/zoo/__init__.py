"""Real models and real data, for tests and benchmarks: `make zoo` fetches them, these functions open them.

What isn't there raises `Missing`: a test then skips with the reason, and fails in CI.
"""

from zoo.cache import Missing, item, root
from zoo.images import digit_cnn, efficientnet_lite0, fashion_mnist, foolbox, mnist, photo_tensor, photos
from zoo.onnx_files import onnx_files
from zoo.speech import auc, prompts, silero, sound, vad_task
from zoo.tables import characters, kjv, letters, table
from zoo.text import cmudict, embed, g2p, lee, minilm, speak, spell, vader, word_accuracy
from zoo.trained import character_gpt, depthwise, lenet_5, lenet_300_100, letters_mlp, resnet_8
from zoo.training import accuracy, train
from zoo.whisper import transcribe, whisper, word_error_rate

__all__ = [
    "Missing",
    "accuracy",
    "auc",
    "character_gpt",
    "characters",
    "cmudict",
    "depthwise",
    "digit_cnn",
    "efficientnet_lite0",
    "embed",
    "fashion_mnist",
    "foolbox",
    "g2p",
    "item",
    "kjv",
    "lee",
    "lenet_5",
    "lenet_300_100",
    "letters",
    "letters_mlp",
    "minilm",
    "mnist",
    "onnx_files",
    "photo_tensor",
    "photos",
    "prompts",
    "resnet_8",
    "root",
    "silero",
    "sound",
    "speak",
    "spell",
    "table",
    "train",
    "transcribe",
    "vad_task",
    "vader",
    "whisper",
    "word_accuracy",
    "word_error_rate",
]  # fmt: skip
