"""What a group held before a call, to be put back when the call does not count."""

from __future__ import annotations

import torch

from chimera.decide.transforms import level
from chimera.stack.group import Group


class Shadow:
    """Copies of a group's buffers, to be put back when a run does not count.

    All of them: torch's batch norm writes its statistics without a trace in the version counter.

    Args:
        group: the group.
        parameters: copy the parameters, too.
    """

    def __init__(self, group: Group, *, parameters: bool = False) -> None:
        pairs = zip(group.tensors(), group.trained, strict=True)
        self._tensors = [tensor for tensor, trained in pairs if parameters or not trained]
        self._copies = [tensor.detach().clone() for tensor in self._tensors]

    def restore(self) -> None:
        """Put back what the tensors held.

        Graphs that hold them go on: as far as they can tell, nothing was written.
        """
        inside = level() > 0
        for tensor, copy in zip(self._tensors, self._copies, strict=True):
            # A transform around the stack refuses to write, even what is there already.
            if not (inside and torch.equal(tensor, copy)):
                tensor.data.copy_(copy)
