"""Milliseconds of a cell's network on this machine: measured, and predicted from its costs."""
