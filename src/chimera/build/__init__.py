"""From specifications to shapes to parameters; instances of a factory."""
