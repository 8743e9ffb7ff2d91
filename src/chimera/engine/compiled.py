"""Torch's compiler for recorded steps."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from chimera.engine.graph import Run


def compiled(graph: GraphModule, fixed: Sequence[int] = ()) -> Run:
    """What runs as ``graph`` does, compiled at its first call.

    A recording is called with the same kind of arguments for good: what torch would look at again
    at each call is switched off. What it draws of torch's generator is what eager draws.
    """
    options: dict[str, Any] = {
        "guard_filter_fn": torch.compiler.skip_all_guards_unsafe,
        "size_asserts": False,
        "fallback_random": True,
    }
    run: Run = torch.compile(graph, dynamic=False, fullgraph=True, options=options)

    served = False

    def call(*tensors: Tensor) -> Sequence[Tensor | None]:
        nonlocal served
        if served:
            return run(*tensors)
        with warnings.catch_warnings():
            # Of torch's compiler about itself; a user can do nothing for it.
            warnings.simplefilter("ignore", DeprecationWarning)
            found = run(*tensors)
        served = True
        return found

    return call
