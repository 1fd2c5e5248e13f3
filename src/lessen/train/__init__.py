"""Training: recovery with distillation from the original, and the methods that train a network to be sparse."""

from .adaptive import Adaptive
from .adaround import AdaRound
from .as_trained import AsTrained
from .blocks import BlockReconstruction
from .distill import Distillation
from .gmp import GMP
from .hard_concrete import L0
from .iterative import IMP
from .lasso import L1, GroupLasso
from .learned import LearnedPruning
from .loop import FineTune, copied, finetune
from .lsq import LSQ
from .method import Lesson, Trained, Training
from .movement import Movement
from .pact import PACT
from .qat_straight import StraightThrough
from .rigl import RigL
from .slimming import Slimming
from .soft_threshold import STR
from .sparsifier import Sparsifier
from .structured_l0 import StructuredL0
from .structured_movement import StructuredMovement
from .through import through_codings

__all__ = [
    "GMP", "IMP", "L0", "L1", "LSQ", "PACT", "STR", "AdaRound", "Adaptive", "AsTrained", "BlockReconstruction",
    "Distillation", "FineTune", "GroupLasso", "LearnedPruning", "Lesson", "Movement", "RigL", "Slimming", "Sparsifier",
    "StraightThrough", "StructuredL0", "StructuredMovement", "Trained", "Training", "copied", "finetune",
    "through_codings",
]  # fmt: skip
