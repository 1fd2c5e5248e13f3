"""ONNX files that nobody made for this project."""

from __future__ import annotations

from pathlib import Path

from zoo.cache import item


def onnx_files() -> dict[str, Path]:
    """Text detector, recogniser and direction of RapidOCR (Apache-2.0), Silero VAD (MIT), Basic Pitch (Apache-2.0)."""
    ocr = item("rapidocr") / "rapidocr_onnxruntime/models"
    return {
        "ocr_detector": ocr / "ch_PP-OCRv4_det_infer.onnx",
        "ocr_recogniser": ocr / "ch_PP-OCRv4_rec_infer.onnx",
        "ocr_direction": ocr / "ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "silero_vad": item("silero") / "silero_vad/data/silero_vad.onnx",
        "basic_pitch": item("basic_pitch") / "basic_pitch/saved_models/icassp_2022/nmp.onnx",
    }
