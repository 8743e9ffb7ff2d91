"""Files: atomic writes, lines, locks, run directories, folders and tensors watched bit by bit."""

from chimera.store.atomic import is_leftover, staged, write_atomic
from chimera.store.claim import claim_empty
from chimera.store.errors import CheckpointError, LockedError
from chimera.store.folders import Folders
from chimera.store.lines import JsonLines
from chimera.store.lock import Lock
from chimera.store.plain import read_json
from chimera.store.tensors import TensorFile, write_tensors

__all__ = [
    "CheckpointError",
    "Folders",
    "JsonLines",
    "Lock",
    "LockedError",
    "TensorFile",
    "claim_empty",
    "is_leftover",
    "read_json",
    "staged",
    "write_atomic",
    "write_tensors",
]
