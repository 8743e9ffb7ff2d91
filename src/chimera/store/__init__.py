"""Files: atomic writes, lines, run directories, tensors whose every bit is watched."""

from chimera.store.atomic import is_leftover, staged, write_atomic
from chimera.store.claim import claim_empty
from chimera.store.errors import CheckpointError
from chimera.store.lines import JsonLines
from chimera.store.tensors import TensorFile, write_tensors

__all__ = [
    "CheckpointError",
    "JsonLines",
    "TensorFile",
    "claim_empty",
    "is_leftover",
    "staged",
    "write_atomic",
    "write_tensors",
]
