"""Which detector for this machine: searched cells and known networks by AP and milliseconds."""
