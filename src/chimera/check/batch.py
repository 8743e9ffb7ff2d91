"""A batch of one size only, where the specification leaves its size free."""

import re
from functools import partial
from typing import Any

from torch import nn

from chimera.build.datafree import is_uninitialized
from chimera.build.inputs import Inputs
from chimera.build.spec import Spec
from chimera.build.trial import Trial, try_shapes
from chimera.build.twin import tensors_of
from chimera.paths.nest import flatten

_FEW = 8
_NUMBER = re.compile(r"\d+")


def passing(
    net: nn.Module, inputs: Inputs, failure: Exception, written: set[int]
) -> tuple[int, Trial | None]:
    """The size of the batch with which ``net`` runs, and that run without data; 0 and None where
    the batch is not free or no size is found.

    Args:
        failure: what it raises where the size is none that it expects. What it expects stands in
            the message.
        written: the numbers in its code. Sizes of its tensors are looked at as well.
    """
    specs = [leaf for leaf in inputs.leaves() if isinstance(leaf, Spec)]
    names = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    if len(names) != 1:
        return 0, None
    told = {int(number) for number in _NUMBER.findall(str(failure))}
    own = (tensor for tensor in tensors_of(net) if not is_uninitialized(tensor))
    known = written | {tensor.shape[0] for tensor in own if tensor.dim()}
    for size in sorted(told & known - {0, 1})[:_FEW]:
        try:
            trial = try_shapes(net, inputs.map(partial(_sized, names=names, size=size)))
        except Exception:  # noqa: BLE001 - whatever a user's forward raises: another size
            continue
        outputs = [leaf for leaf in flatten(trial.output)[0] if isinstance(leaf, Spec)]
        if any(output.shape[:1] == (size,) for output in outputs):
            trial.sizes.update(dict.fromkeys(names, size))
            return size, trial
    return 0, None


def _sized(leaf: Any, names: set[str], size: int) -> Any:
    if not isinstance(leaf, Spec):
        return leaf
    shape = (size if axis in names else axis for axis in leaf.shape)
    return Spec(tuple(shape), leaf.dtype)
