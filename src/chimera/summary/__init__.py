"""The tree of a network, from the model to the neuron: shapes, parameters, cost, findings."""

from chimera.summary.report import Summary
from chimera.summary.summary import summary

__all__ = ["Summary", "summary"]
