"""COCO metrics, curves and pictures of a detector."""
