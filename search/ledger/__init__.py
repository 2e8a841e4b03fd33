"""What a search must not forget: the children and the strategy, in one SQLite file."""
