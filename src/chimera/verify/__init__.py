"""A stack against the loop."""
