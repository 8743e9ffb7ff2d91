"""State that objects keep to themselves: where a generator stands, what an array holds.

Their identity stays while they change, and JSON cannot say them: a digest tells that they moved.
"""

from __future__ import annotations

import hashlib
import pickle
import random
from collections.abc import Iterator
from typing import Any

import torch


def moving(value: Any) -> str | None:
    """A digest of what a generator, an iterator or an array of NumPy holds; None of anything else.

    An iterator that cannot be pickled (a Python generator) has none.
    """
    if isinstance(value, torch.Generator):
        return hashlib.sha256(value.get_state().numpy().tobytes()).hexdigest()
    numpys = type(value).__module__.partition(".")[0] == "numpy"
    if not (numpys or isinstance(value, random.Random | Iterator)):
        return None
    try:
        return hashlib.sha256(pickle.dumps(value)).hexdigest()
    except (TypeError, pickle.PicklingError, AttributeError):
        return None
