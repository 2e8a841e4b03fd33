"""Detectors as programs for other runtimes."""

FORMATS = ("onnx", "openvino", "torch")
"""Of `python -m detection.export`."""
