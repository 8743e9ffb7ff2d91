"""Counter-based randomness, and seeds that belong to paths."""
