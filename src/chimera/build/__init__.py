"""From specifications to shapes to parameters; instances of a factory."""

from chimera.build.inputs import Inputs, inputs
from chimera.build.spec import Spec, spec

__all__ = ["Inputs", "Spec", "inputs", "spec"]
