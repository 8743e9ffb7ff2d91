"""Data, loop, metrics, result, run directory."""
