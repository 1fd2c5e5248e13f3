"""lessen: a trained network, some data and a budget in; the smallest or fastest network that holds it out."""

from .apply import apply
from .budget import Budget
from .compress import Compression, Result, compress, replay
from .errors import BudgetNotMet, LessenError
from .factorize import *  # noqa: F403
from .inspection import inspect
from .models import Model, load
from .models.packed import load_into, unpack_file
from .plan import Plan, Treatment
from .prune import *  # noqa: F403
from .quantize import *  # noqa: F403
from .share import *  # noqa: F403
from .stack import Stack
from .targets import OnnxRuntime, OpenVINO

__version__ = "0.1.0"
