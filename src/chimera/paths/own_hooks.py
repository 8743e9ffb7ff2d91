"""The hooks of torch itself that only compute an attribute from the module's own tensors.

Weight norm and spectral norm of the old form, and pruning, work by a hook before every call. Such
a hook may run once for all members: it reads and writes nothing outside of its module.
"""

from __future__ import annotations

from typing import Any

from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def computed_by(hook: Any) -> str | None:
    """The name of the attribute that a hook of torch's own computes; None for any other hook.

    A subclass counts only where it computes as torch's class does.
    """
    if type(hook) in (WeightNorm, SpectralNorm):
        return str(hook.name)
    if isinstance(hook, BasePruningMethod):
        kind = type(hook)
        same = kind.__call__ is BasePruningMethod.__call__
        same = same and kind.apply_mask is BasePruningMethod.apply_mask
        return str(hook._tensor_name) if same else None
    return None
