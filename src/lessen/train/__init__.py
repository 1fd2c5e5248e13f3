"""Recovery: the training loop, fine-tuning through codings, distillation from the original."""

from .distill import Distillation
from .loop import FineTune, copied, finetune
from .through import through_codings

__all__ = ["Distillation", "FineTune", "copied", "finetune", "through_codings"]
