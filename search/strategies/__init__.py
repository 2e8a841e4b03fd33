"""What to try next, given the results so far."""
