"""Engines: one detector, built from torchvision's operations or Detectron2's."""
