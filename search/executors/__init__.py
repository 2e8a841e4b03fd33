"""Where children run."""
