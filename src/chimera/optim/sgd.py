"""SGD for the members of a stack."""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from chimera.optim.arithmetic import as_real, gradient, has_fused
from chimera.optim.groups import Entry, ParameterGroup, Stacked
from chimera.optim.optimizer import Optimizer
from chimera.optim.settings import Range, Setting
from chimera.optim.state import LIKE, ROWS, empty_state
from chimera.paths.arguments import as_flag


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum, as ``torch.optim.SGD`` does for each member.

    Args:
        stack: the members, a Stack.
        lr: learning rate. This and the other numbers: one for all members, or one per member, a
            list or tensor ``[N]`` on any device.
        momentum: how much of the last direction is kept (Sutskever et al. 2013).
        dampening: what the gradient loses where momentum is used, from the second step on.
        weight_decay: L2 penalty, added to the gradient.
        nesterov: whether to look ahead along the momentum.
        groups: parameters with settings of their own: a list of dicts, "params" with a name, a
            pattern such as ``"**.bias"``, a parameter of the stack or a list of these, and
            settings. What no group names has the settings above.

    Raises:
        TypeError: ``stack`` is no Stack; a setting is no number, or unknown.
        ValueError: a wrong number of values, a value out of range (the member is named), a
            parameter in two groups, a pattern that fits nothing, or ``nesterov`` without
            momentum or with dampening.
    """

    ranges: ClassVar[dict[str, Range]] = {
        "lr": Range(),
        "momentum": Range(),
        "dampening": Range(low=float("-inf")),
        "weight_decay": Range(),
    }
    tensors: ClassVar[dict[str, str]] = {"momentum_buffer": LIKE, "started": ROWS}

    def __init__(
        self,
        stack: Stacked,
        lr: Any = 1e-3,
        momentum: Any = 0.0,
        dampening: Any = 0.0,
        weight_decay: Any = 0.0,
        *,
        nesterov: bool = False,
        groups: Iterable[dict[str, Any]] = (),
    ) -> None:
        given = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
        }  # fmt: skip
        super().__init__(stack, given, groups, {"nesterov": as_flag("SGD: nesterov", nesterov)})

    def _check(self, group: ParameterGroup) -> None:
        momentum, dampening = (group.settings[n].values() for n in ("momentum", "dampening"))
        wrong = (momentum == 0) | (dampening != 0)
        if self.options["nesterov"] and bool(wrong.any()):
            member = int(wrong.nonzero()[0])
            raise ValueError(
                "SGD: nesterov needs momentum above 0 and no dampening; member "
                f"{member} has momentum {momentum[member]:g} and dampening {dampening[member]:g}."
            )

    def _update(self, entries: list[Entry], settings: dict[str, Setting]) -> None:
        alike = not any(setting.per_member for setting in settings.values())
        first: list[Entry] = []
        later: list[Entry] = []
        for entry in entries:
            started = self._started(entry, settings)
            if not alike or not _has_fused(entry.parameter):
                self._by_rows(entry, settings)
            elif started is None or bool(started.all()):
                later.append(entry)
            elif not started.any():
                first.append(entry)
            else:
                self._by_rows(entry, settings)
        self._fused(first, settings, first=True)
        self._fused(later, settings, first=False)

    def _started(self, entry: Entry, settings: dict[str, Setting]) -> Tensor | None:
        """Which rows have a momentum buffer ``[members of the group]``; None where none has use."""
        if settings["momentum"].zero:
            return None
        if not entry.state:
            entry.state = empty_state(entry, self.tensors)
        return entry.state["started"]

    def _fused(self, entries: list[Entry], settings: dict[str, Setting], *, first: bool) -> None:
        if not entries:
            return
        uses = not settings["momentum"].zero
        buffers: list[Tensor | None] = [
            entry.state["momentum_buffer"] if uses and not first else None for entry in entries
        ]
        sgd(
            [entry.parameter for entry in entries],
            [gradient(entry) for entry in entries],
            buffers,
            fused=True,
            nesterov=self.options["nesterov"],
            maximize=False,
            lr=settings["lr"].number,
            momentum=settings["momentum"].number,
            dampening=settings["dampening"].number,
            weight_decay=settings["weight_decay"].number,
        )
        for entry, buffer in zip(entries, buffers, strict=True):
            if buffer is not None:
                entry.state["momentum_buffer"] = buffer
                entry.state["started"].fill_(True)

    def _by_rows(self, entry: Entry, settings: dict[str, Setting]) -> None:
        p, g = as_real(entry.parameter.detach()), as_real(gradient(entry))
        if not settings["weight_decay"].zero:
            g = torch.addcmul(g, p, self._row(entry, "weight_decay", settings))
        if not settings["momentum"].zero:
            g = self._direction(entry, g, settings)
        p.addcmul_(g, self._row(entry, "-lr", settings))

    def _direction(self, entry: Entry, g: Tensor, settings: dict[str, Setting]) -> Tensor:
        """Where each row goes: along its momentum, or along its gradient where it has none."""
        buffer, started = as_real(entry.state["momentum_buffer"]), entry.state["started"]
        active = settings["momentum"].values()[entry.rows.members] != 0
        momentum = self._row(entry, "momentum", settings)
        taken = self._row(entry, "1-dampening", settings)
        if bool(active.all() and started.all()):
            new = buffer.mul_(momentum).addcmul_(g, taken)
        else:
            has, uses = (t.to(g.device).view(entry.rows.shape) for t in (started, active))
            new = torch.where(has, buffer * momentum + g * taken, g)
            buffer.copy_(torch.where(uses, new, buffer))
            new = torch.where(uses, new, g)
            started |= active
        return torch.addcmul(g, new, momentum) if self.options["nesterov"] else new

    def _factor(self, key: str, settings: dict[str, Setting]) -> Tensor:
        if key == "-lr":
            return -settings["lr"].values()
        if key == "1-dampening":
            return 1 - settings["dampening"].values()
        return super()._factor(key, settings)


def _has_fused(parameter: Tensor) -> bool:
    """Torch's fused SGD moves bfloat16 and float16 wrongly on a CPU (torch 2.13)."""
    return has_fused(parameter) and parameter.dtype in (torch.float32, torch.float64)
