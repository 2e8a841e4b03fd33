"""Detectors as programs for other runtimes."""

FORMATS = ("onnx", "torch")
"""Of `python -m detection.export`."""
