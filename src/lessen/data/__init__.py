"""Data and metrics: one door in (`load_data`), three parts that never mix, and what "how good" means."""

from lessen.data.batch import Batch
from lessen.data.images import Images
from lessen.data.interval import Drop, drop_of, enough, paired_drop
from lessen.data.load import load_data
from lessen.data.metrics import Metric, Score, evaluate, metric_for, metric_from, metric_named, outputs_of
from lessen.data.part import Data, Part

__all__ = [
    "Batch",
    "Data",
    "Drop",
    "Images",
    "Metric",
    "Part",
    "Score",
    "drop_of",
    "enough",
    "evaluate",
    "load_data",
    "metric_for",
    "metric_from",
    "metric_named",
    "outputs_of",
    "paired_drop",
]
