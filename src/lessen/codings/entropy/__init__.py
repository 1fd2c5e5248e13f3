"""The entropy coder: arrays to bytes and back, near the entropy. Coder (`rans`) and model (the rest) are separate."""

from .arrays import decode_array, encode_array
from .tensors import coded_size, decode_tensor, encode_tensor, estimated_size

__all__ = ["coded_size", "decode_array", "decode_tensor", "encode_array", "encode_tensor", "estimated_size"]
