"""Functions of tensors as graphs, by torch's tracer.

Contract: ``recorded`` computes nothing. Torch's names that are private, or have no promise, stand
here alone, and tests/engine/test_trace.py tells when torch changes them.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from chimera.draws.outside import none_outside
from chimera.engine.program import Uncapturable
from chimera.engine.questions import Asked

# What torch raises where a recording meets a condition on data; the second has no public name.
_ASKED = ("GuardOnDataDependentSymNode", "DataDependentOutputException")


def recorded(function: Callable[..., list[Tensor]], flat: list[Tensor]) -> GraphModule:
    """``function`` as a graph; nothing is computed, and the tensors stay as they are.

    Tensors that ``function`` holds, as numbers of the members are, become constants of the graph:
    this is what torch allows under the name below.

    Raises:
        Uncapturable: the folder of torch's compiler cannot be written.
        DrawnOutside: ``function`` draws a number that would become a constant of the graph.
    """
    _check_cache()
    with none_outside():
        found = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*flat)
    assert isinstance(found, GraphModule)
    return found


def asked_a_value(error: Exception) -> bool:
    """Whether a recording failed since a tensor was asked for a Python value."""
    return isinstance(error, Asked) or type(error).__name__ in _ASKED


def _check_cache() -> None:
    """Refuse a folder of torch's compiler that cannot be written.

    Its import would fail, and torch would be left half loaded.
    """
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if folder is None:
        return
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise Uncapturable(f"TORCHINDUCTOR_CACHE_DIR={folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise Uncapturable(f"TORCHINDUCTOR_CACHE_DIR={folder} cannot be written")
