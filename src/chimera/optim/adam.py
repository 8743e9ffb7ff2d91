"""Adam and AdamW for the members of a stack.

A step takes the fastest of three ways that the settings allow, always the same for the same
settings: torch's fused kernel on the stacked parameters, where all settings are one number for all
members; the same kernel on zeros, which gives every member's direction, then scaled by each
member's learning rate, where only ``lr`` and ``weight_decay`` differ; plain tensor arithmetic,
where ``betas`` or ``eps`` differ too, where members have taken different numbers of steps, and for
complex parameters.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.adam import adam

from chimera.optim.arithmetic import as_real, gradient, has_fused, wide
from chimera.optim.groups import Entry, Stacked
from chimera.optim.optimizer import Optimizer
from chimera.optim.settings import Range, Setting
from chimera.optim.state import COUNT, LIKE, empty_state

# More bytes of parameters than this take their step in parts.
AT_ONCE = 16 << 20
EVERY = slice(None)
Part = tuple[Entry, slice]
"""Some rows of a parameter."""


class Adam(Optimizer):
    """Adam (Kingma and Ba 2014, arXiv:1412.6980), as ``torch.optim.Adam`` for each member.

    Args:
        stack: the members, a Stack.
        lr: learning rate. This and the other numbers: one for all members, or one per member, a
            list or tensor ``[N]`` on any device.
        betas: the decay of the running means of the gradient and of its square, a pair, each of
            them a number or one per member.
        eps: added to the root of the mean square.
        weight_decay: L2 penalty, added to the gradient.
        groups: parameters with settings of their own: a list of dicts, "params" with a name, a
            pattern such as ``"**.bias"``, a parameter of the stack or a list of these, and
            settings. What no group names has the settings above.

    Raises:
        TypeError: ``stack`` is no Stack; a setting is no number, or unknown.
        ValueError: a wrong number of values, a value out of range (the member is named), a
            parameter in two groups, or a pattern that fits nothing.
    """

    decoupled: ClassVar[bool] = False
    ranges: ClassVar[dict[str, Range]] = {
        "lr": Range(),
        "beta1": Range(high=1.0),
        "beta2": Range(high=1.0),
        "eps": Range(),
        "weight_decay": Range(),
    }
    pairs: ClassVar[dict[str, tuple[str, str]]] = {"betas": ("beta1", "beta2")}
    tensors: ClassVar[dict[str, str]] = {"step": COUNT, "exp_avg": LIKE, "exp_avg_sq": LIKE}

    def __init__(
        self,
        stack: Stacked,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-8,
        weight_decay: Any = 0.0,
        *,
        groups: Iterable[dict[str, Any]] = (),
    ) -> None:
        given = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(stack, given, groups)
        self._slates: dict[Any, Tensor] = {}

    def _update(self, entries: list[Entry], settings: dict[str, Setting]) -> None:
        for entry in entries:
            if not entry.state:
                entry.state = empty_state(entry, self.tensors)
        one_kernel = not any(settings[name].per_member for name in ("beta1", "beta2", "eps"))
        fused = [entry for entry in entries if one_kernel and _is_fusible(entry)]
        if fused and not (settings["lr"].per_member or settings["weight_decay"].per_member):
            self._whole(fused, settings)
        elif fused:
            self._scaled(fused, settings)
        for entry in entries:
            if not (one_kernel and _is_fusible(entry)):
                self._by_rows(entry, settings)

    def _whole(self, entries: list[Entry], settings: dict[str, Setting]) -> None:
        _kernel(
            [(entry, EVERY) for entry in entries],
            [entry.parameter for entry in entries],
            [gradient(entry) for entry in entries],
            settings,
            lr=settings["lr"].number,
            weight_decay=settings["weight_decay"].number,
            decoupled_weight_decay=self.decoupled,
        )

    def _scaled(self, entries: list[Entry], settings: dict[str, Setting]) -> None:
        if sum(entry.parameter.nbytes for entry in entries) <= AT_ONCE:
            self._directed([(entry, EVERY) for entry in entries], settings)
            return
        for entry in entries:  # so that directions take little memory beside the parameters
            for rows in _parts(entry):
                self._directed([(entry, rows)], settings)

    def _directed(self, parts: list[Part], settings: dict[str, Setting]) -> None:
        parameters = [_of(entry.parameter, rows) for entry, rows in parts]
        gradients = [_of(gradient(entry), rows) for entry, rows in parts]
        decays = not settings["weight_decay"].zero
        if decays and not self.decoupled:
            gradients = [
                torch.addcmul(g, p, _of(self._row(entry, "weight_decay", settings), rows)).to(
                    g.dtype
                )
                for g, p, (entry, rows) in zip(gradients, parameters, parts, strict=True)
            ]
        if parts[0][1] == EVERY:
            # A decoupled decay of 1 at a rate of 1 clears what the last step left in the same
            # pass. What it cannot clear, a NaN or an Inf, the parameter has as well.
            directions = [
                _scratch(entry, p) for (entry, _), p in zip(parts, parameters, strict=True)
            ]
        else:
            directions = [self._slate(p) for p in parameters]
        _kernel(
            parts,
            directions,
            gradients,
            settings,
            lr=1.0,
            weight_decay=1.0,
            decoupled_weight_decay=True,
        )
        for (entry, rows), p, direction in zip(parts, parameters, directions, strict=True):
            if decays and self.decoupled:
                p.mul_(_of(self._row(entry, "1-lr*weight_decay", settings), rows))
            p.addcmul_(direction, _of(self._row(entry, "lr", settings), rows))

    def _slate(self, like: Tensor) -> Tensor:
        """Zeros for a part's directions, in memory that other parts of its shape use as well."""
        key = (like.shape, like.stride(), like.dtype, like.device)
        if key not in self._slates:
            self._slates[key] = torch.zeros_like(like, requires_grad=False)
        return self._slates[key].zero_()

    def _by_rows(self, entry: Entry, settings: dict[str, Setting]) -> None:
        real = [as_real(t) for t in (entry.parameter.detach(), gradient(entry))]
        means = [as_real(entry.state[name]) for name in ("exp_avg", "exp_avg_sq")]
        dtype = wide(entry.parameter)
        p, g, mean, square = (tensor.to(dtype) for tensor in (*real, *means))
        exact = torch.float32 if p.device.type == "mps" else torch.float64

        def row(key: str, dtype: torch.dtype = dtype) -> Tensor:
            return self._row(entry, key, settings, dtype)

        if not settings["weight_decay"].zero:
            if self.decoupled:
                p.mul_(row("1-lr*weight_decay"))
            else:
                g = torch.addcmul(g, p, row("weight_decay"))
        step = entry.state["step"].add_(1)
        step = step.view(entry.rows.shape) if step.dim() else step
        work = _scratch(entry, p)
        mean.lerp_(g, row("1-beta1"))
        square.lerp_(torch.mul(g, g, out=work), row("1-beta2"))
        # lr * (mean / c1) / (sqrt(square / c2) + eps), with the corrections moved to the rows
        root = (1 - row("exact beta2", exact) ** step).sqrt()
        rate = row("exact lr", exact) * root / (1 - row("exact beta1", exact) ** step)
        torch.sqrt(square, out=work).add_((row("exact eps", exact) * root).to(dtype))
        p.addcmul_(torch.div(mean, work, out=work), rate.neg_().to(dtype))
        for narrow, computed in zip((real[0], *means), (p, mean, square), strict=True):
            if narrow is not computed:
                narrow.copy_(computed)

    def _factor(self, key: str, settings: dict[str, Setting]) -> Tensor:
        if key == "1-lr*weight_decay":
            return 1 - settings["lr"].values() * settings["weight_decay"].values()
        name = key.removeprefix("1-").removeprefix("exact ")
        values = super()._factor(name, settings)
        return 1 - values if key.startswith("1-") else values


def _is_fusible(entry: Entry) -> bool:
    """Whether torch's kernel takes it: it knows one count of steps a parameter."""
    return has_fused(entry.parameter) and entry.state["step"].dim() == 0


def _parts(entry: Entry) -> list[slice]:
    """A parameter's rows in parts of at most ``AT_ONCE`` bytes, each dense in memory."""
    parameter = entry.parameter
    count, every = len(parameter), parameter.numel()
    dense = parameter.stride(0) * count == every and gradient(entry).stride() == parameter.stride()
    if not dense or parameter.nbytes <= AT_ONCE:
        return [EVERY]
    rows = max(1, AT_ONCE * count // parameter.nbytes)
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _kernel(
    parts: list[Part],
    parameters: list[Tensor],
    gradients: list[Tensor],
    settings: dict[str, Setting],
    **how: Any,
) -> None:
    adam(
        parameters,
        gradients,
        [_of(entry.state["exp_avg"], rows) for entry, rows in parts],
        [_of(entry.state["exp_avg_sq"], rows) for entry, rows in parts],
        [],
        [_step_of(entry, rows) for entry, rows in parts],
        fused=True,
        amsgrad=False,
        maximize=False,
        beta1=settings["beta1"].number,
        beta2=settings["beta2"].number,
        eps=settings["eps"].number,
        **how,
    )


def _of(tensor: Tensor, rows: slice) -> Tensor:
    return tensor if rows == EVERY else tensor[rows]


def _step_of(entry: Entry, rows: slice) -> Tensor:
    """The count of steps, which the kernel raises: for all parts but the last a copy."""
    step = entry.state["step"]
    return step if rows == EVERY or rows.stop == len(entry.parameter) else step.clone()


def _scratch(entry: Entry, like: Tensor) -> Tensor:
    """Memory of the parameter's, zero at first, for one step's work."""
    kept = entry.scratch
    if kept is None or (kept.shape, kept.device, kept.dtype) != (
        like.shape,
        like.device,
        like.dtype,
    ):
        kept = entry.scratch = torch.zeros_like(like, requires_grad=False)
    return kept
