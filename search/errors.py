"""What ends a search before its budget does."""


class SearchPaused(RuntimeError):
    """The search cannot go on by itself; everything so far is in the ledger, and starting again continues."""
