"""Flags and devices as users give them, checked where they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def as_flag(name: str, value: Any) -> bool:
    """``value`` as a truth value.

    Raises:
        TypeError: it is neither True nor False; a text such as ``"no"`` would count as true.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r:.60}")
    return bool(value)


def as_device(name: str, value: Any) -> torch.device:
    """The device meant, if this machine has it.

    Raises:
        TypeError: ``value`` is neither a device nor the name or number of one.
        ValueError: it is no device's name, or not here.
    """
    if not isinstance(value, torch.device | str | int) or isinstance(value, bool):
        raise TypeError(
            f'{name} must be a device, such as "cpu" or "cuda:0", got {value!r:.60} '
            f"of type {type(value).__name__}"
        )
    try:
        place = torch.device(value)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"{name} {str(value)!r} cannot be used here: {first_line}") from error
    return place
