"""Conditions on data inside a transform: seen, recorded, replayed."""
