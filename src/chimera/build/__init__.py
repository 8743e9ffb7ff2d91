"""From specifications to shapes to parameters; instances of a factory."""

from chimera.build.builder import build
from chimera.build.inputs import Inputs, inputs
from chimera.build.instances import instances
from chimera.build.pointing import pointing
from chimera.build.shapes import shapes
from chimera.build.spec import Spec, spec

__all__ = ["Inputs", "Spec", "build", "inputs", "instances", "pointing", "shapes", "spec"]
