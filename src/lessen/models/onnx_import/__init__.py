"""ONNX files of any framework as torch modules, and back."""

from .module import OnnxModule, load_onnx

__all__ = ["OnnxModule", "load_onnx"]
