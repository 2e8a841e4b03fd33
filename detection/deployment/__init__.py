"""Detectors as programs for other runtimes."""
