"""The steps of Adam, AdamW and SGD as tensor operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from chimera.optim.adam import Adam
from chimera.optim.groups import Entry
from chimera.optim.optimizer import Optimizer
from chimera.optim.recording import Number, Recording, Share, Unrecordable
from chimera.optim.sgd import SGD


def recording_of(
    optimizer: Optimizer, parameters: Sequence[Tensor], *, holds: bool = False
) -> Recording:
    """The coming steps of ``optimizer``; see ``Recording`` for the arguments.

    Raises:
        Unrecordable: there is none for such an optimizer.
    """
    if isinstance(optimizer, Adam):
        return _Adam(optimizer, parameters, holds=holds)
    if isinstance(optimizer, SGD):
        return _SGD(optimizer, parameters, holds=holds)
    raise Unrecordable(f"{type(optimizer).__name__} has no recorded step")


def _root(number: Number) -> Number:
    return number.sqrt() if isinstance(number, Tensor) else number**0.5


class _Adam(Recording):
    """lr * (mean / c1) / (sqrt(square / c2) + eps), the corrections moved to lr and eps."""

    optimizer: Adam

    def _steps_of(self, entry: Entry) -> Number:
        step = entry.state["step"]
        return step.double().cpu() if step.dim() else float(step)

    def _changed(self, share: Share) -> list[str]:
        return ["step", "exp_avg", "exp_avg_sq"]

    def _kind(self, share: Share) -> Any:
        return share.settings["weight_decay"].zero

    def _fixed(self, share: Share) -> list[Number]:
        beta1, beta2, decay = (share.value(name) for name in ("beta1", "beta2", "weight_decay"))
        lr = share.value("lr")
        shrink = 1 - lr * decay if self.optimizer.decoupled else decay
        return [1 - beta1, beta2, 1 - beta2, lr, share.value("eps"), shrink]

    def _moving(self, share: Share) -> list[Number]:
        step = share.steps + 1
        root = _root(1 - share.value("beta2") ** step)
        return [root / (1 - share.value("beta1") ** step), root]

    def _moved(
        self, share: Share, p: Tensor, g: Tensor, state: list[Tensor], rows: list[Tensor]
    ) -> Tensor:
        step, exp_avg, exp_avg_sq = state
        new1, beta2, new2, lr, eps, shrink, rate, root = rows
        if not share.settings["weight_decay"].zero:
            if self.optimizer.decoupled:
                p = p * shrink
            else:
                g = g + p * shrink
        mean = exp_avg + (g - exp_avg) * new1
        square = exp_avg_sq * beta2 + g * g * new2
        step.add_(1)
        exp_avg.copy_(mean)
        exp_avg_sq.copy_(square)
        return p - (lr * rate) * (mean / (square.sqrt() + eps * root))


class _SGD(Recording):
    """The direction is the gradient where there is no momentum yet: a row of numbers says so."""

    optimizer: SGD

    def _changed(self, share: Share) -> list[str]:
        return [] if share.settings["momentum"].zero else ["momentum_buffer"]

    def _all_active(self, share: Share) -> bool:
        momentum = share.settings["momentum"].plain()  # read while recording: no tensor
        return all(momentum) if isinstance(momentum, list) else momentum != 0

    def _active(self, share: Share) -> Tensor:
        momentum = share.value("momentum")
        rows = len(share.entries[0][1].rows.members)
        return (torch.as_tensor(momentum, dtype=torch.float64) != 0).expand(rows)

    def _kind(self, share: Share) -> Any:
        zero = share.settings["momentum"].zero
        return (
            zero,
            share.settings["weight_decay"].zero,
            zero or self._all_active(share),
        )

    def _fixed(self, share: Share) -> list[Number]:
        return [share.value("lr"), share.value("weight_decay"), share.value("momentum")]

    def _moving(self, share: Share) -> list[Number]:
        """What is kept of the buffer, what is taken of the gradient, and who has momentum."""
        if share.settings["momentum"].zero:
            return [0.0, 1.0, 0.0]
        active = self._active(share)
        started = share.entries[0][1].state["started"]
        for _, entry in share.entries:
            if not torch.equal(entry.state["started"], started):
                raise Unrecordable("parameters of one group have begun their momentum apart")
        momentum, dampening = (
            torch.as_tensor(share.value(name), dtype=torch.float64)
            for name in ("momentum", "dampening")
        )
        kept = torch.where(started, momentum, 0.0)
        return [kept, torch.where(started, 1 - dampening, 1.0), active.double()]

    def _moved(
        self, share: Share, p: Tensor, g: Tensor, state: list[Tensor], rows: list[Tensor]
    ) -> Tensor:
        lr, decay, momentum, kept, taken, uses = rows
        if not share.settings["weight_decay"].zero:
            g = g + p * decay
        if state:
            (buffer,) = state
            new = buffer * kept + g * taken
            if not self._all_active(share):
                buffer.copy_(torch.where(uses != 0, new, buffer))
                new = torch.where(uses != 0, new, g)
            else:
                buffer.copy_(new)
            g = g + new * momentum if self.optimizer.options["nesterov"] else new
        return p - lr * g

    def done(self) -> None:
        super().done()
        for share in self.shares:
            if not share.settings["momentum"].zero:
                for _, entry in share.entries:
                    entry.state["started"] |= self._active(share)
