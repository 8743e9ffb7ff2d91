"""What a Stack does inside ``torch.compile``: it runs eagerly, and says so.

Dynamo cannot follow how the members' tensors are exchanged, and skips what runs under a mode, so
that a compiled stack would run eagerly in silence. Loaded by Dynamo alone: torch's ``disable``
imports it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from chimera.paths.notice import ChimeraWarning

_WHY = (
    "a ch.Stack inside torch.compile runs eagerly: Dynamo cannot follow it. Its results and draws "
    "are those of eager mode"
)
_NO_EXPORT = (
    "torch.export cannot follow how a ch.Stack exchanges its members' tensors; export the members, "
    "which are plain modules: torch.export.export(stack[i], ...)"
)
_said: list[str] = []


@torch.compiler.disable(reason=f"{_WHY}. {_NO_EXPORT}")  # type: ignore[untyped-decorator]
def eagerly(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``call`` outside of what Dynamo compiles; the first time with a warning that it is so.

    Raises:
        TypeError: ``torch.export`` calls. Asked here: Dynamo of torch 2.11 takes every compilation
            for an export.
    """
    if torch.compiler.is_exporting():
        raise TypeError(_NO_EXPORT)
    if not _said:
        _said.append(_WHY)
        warnings.warn(_WHY, ChimeraWarning, stacklevel=2)
    return call(*args, **kwargs)
