"""Cells that were trained, as rewards for other searches: recorded ones, and what is learned from them."""
