"""Mistakes in a network, found before a run."""
