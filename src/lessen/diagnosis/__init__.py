"""Why a quantized file is worse than its original, layer by layer, and what mends it."""

from .diagnosis import Diagnosis, LayerNoise, diagnose

__all__ = ["Diagnosis", "LayerNoise", "diagnose"]
