"""The rows of a batch over ranks: cut apart on the way in, put together on the way out.

A batch has its rows on the first axis. Ranks take consecutive rows; the first ones take one more
where the number of ranks does not divide the batch. A rank without rows computes one that is then
left out, so that every rank calls the same layers.

Gradients: torch's engines average them over the ranks. What the loss of a whole batch gives to the
rows of one rank is therefore multiplied by the number of ranks on its way in; the average is then
the sum, and a term of the loss that is not about rows (a penalty on weights) is counted once. What
the inputs get is divided again, and put together from all ranks where each was given the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from chimera.build.inputs import Inputs
from chimera.paths.nest import flatten, leaf_names
from chimera.paths.notes import shown


@dataclass(frozen=True)
class Batch:
    """The inputs of one call, and which of their leaves are cut by rows.

    Attributes:
        inputs: positional and named.
        rows: the size of the first axis of those leaves.
        cut: for each leaf, in order.
    """

    inputs: Inputs
    rows: int
    cut: tuple[bool, ...]

    def map(self, change: Callable[[Tensor], Tensor], rows: int) -> Batch:
        """The batch with ``change`` applied to what is cut, which gives ``rows`` rows."""
        marks = iter(self.cut)
        changed = self.inputs.map(lambda leaf: change(leaf) if next(marks) else leaf)
        return Batch(changed, rows, self.cut)

    def __getitem__(self, part: slice) -> Batch:
        return self.map(lambda leaf: leaf[part], len(range(*part.indices(self.rows))))


def batch_of(args: tuple[Any, ...], kwargs: dict[str, Any], whole: frozenset[int | str]) -> Batch:
    """What a network is called with, as a batch.

    Args:
        args, kwargs: of the call.
        whole: positions and names of arguments that have no rows.

    Raises:
        ValueError: no tensor with a first axis among those that may have rows.
    """
    leaves: list[tuple[Any, bool]] = []
    for key, value in (*enumerate(args), *kwargs.items()):
        leaves += [(leaf, key not in whole) for leaf in flatten(value)[0]]
    tensors = [t for t, may in leaves if may and isinstance(t, Tensor) and t.dim()]
    if not tensors:
        raise ValueError(
            f"the inputs hold no tensor with rows; got {shown(args)} {shown(kwargs)}; a network "
            "over devices is called with tensors whose first axis is the batch"
        )
    rows = tensors[0].shape[0]
    cut = tuple(
        may and isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == rows
        for leaf, may in leaves
    )
    return Batch(Inputs(args, kwargs), rows, cut)


def dealt_too(net: nn.Module, batch: Batch, few: int) -> str:
    """What to do if an argument that was dealt out beside the first one has no rows; or nothing."""
    names = list(inspect.signature(net.forward).parameters)
    marks = iter(batch.cut)
    args, kwargs = batch.inputs.args, batch.inputs.kwargs
    given = [(names[i] if i < len(names) else str(i), value) for i, value in enumerate(args)]
    found = []
    for name, value in (*given, *kwargs.items()):
        cut = [next(marks) for _ in flatten(value)[0]]
        if any(cut):
            found.append(name)
    if len(found) < 2:
        return ""
    several = len(found) > 2
    return (
        f"{' and '.join(found[1:])} {'have' if several else 'has'} as many rows as the batch, "
        f"{batch.rows}, and {'were' if several else 'was'} dealt out with it ({few} rows were "
        f"tried); an argument that has no rows is named to ch.distribute: whole={found[1:]!r}"
    )


@dataclass(frozen=True)
class Shares:
    """How many rows each rank has."""

    counts: tuple[int, ...]

    @staticmethod
    def even(rows: int, ranks: int) -> Shares:
        """``rows`` dealt to ``ranks``, as evenly as they go."""
        return Shares(tuple(rows // ranks + (rank < rows % ranks) for rank in range(ranks)))

    @property
    def rows(self) -> int:
        return sum(self.counts)

    def part(self, rank: int) -> slice:
        """The rows of ``rank``."""
        start = sum(self.counts[:rank])
        return slice(start, start + self.counts[rank])


def own_rows(batch: Batch, shares: Shares, part: slice) -> Batch:
    """The ``part`` of a batch that is the same on every rank, of which each computes its own.

    Inputs that need a gradient get that of the whole batch, on every rank.
    """
    marks = iter(batch.cut)

    def change(leaf: Any) -> Any:
        cut = next(marks)
        if isinstance(leaf, Tensor) and leaf.requires_grad and torch.is_grad_enabled():
            if cut:
                return _Cut.apply(leaf, shares, part)  # type: ignore[no-untyped-call]
            return with_gradient(leaf, _mean_of_all)
        return leaf[part] if cut else leaf

    rows = len(range(*part.indices(batch.rows)))
    return Batch(batch.inputs.map(change), rows, batch.cut)


def given_rows(batch: Batch) -> Batch:
    """A batch that is of this rank alone; inputs get the gradients of its own loss's rows."""

    def change(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.requires_grad and torch.is_grad_enabled():
            return with_gradient(leaf, _mean)
        return leaf

    return Batch(batch.inputs.map(change), batch.rows, batch.cut)


def joined_rows(output: Any, shares: Shares, ran: int) -> Any:
    """The outputs of all ranks as one, on every rank.

    Args:
        output: of this rank, nested, each tensor [ran, ...].
        shares: the rows that count, by rank.
        ran: the rows that this rank computed.
    """
    return _each_tensor(output, ran, lambda t: _Joined.apply(t, shares))  # type: ignore[no-untyped-call]


def weighted_rows(output: Any, shares: Shares, ran: int) -> Any:
    """This rank's own rows of its output, whose gradients count by rows.

    A loss that averages over the rank's rows then gives the gradient of the average over all rows.
    """
    count = shares.counts[dist.get_rank()]
    factor = count * len(shares.counts) / max(shares.rows, 1)
    return _each_tensor(output, ran, lambda t: with_gradient(t[:count], lambda grad: grad * factor))


def _each_tensor(output: Any, ran: int, function: Callable[[Tensor], Tensor]) -> Any:
    leaves, shape = flatten(output, objects=True)
    for leaf, name in zip(leaves, leaf_names(shape, "output"), strict=True):
        if isinstance(leaf, Tensor) and (not leaf.dim() or leaf.shape[0] != ran):
            raise ValueError(
                f"{name} is {shown(leaf)} for {ran} rows: it has no row for each row of the input, "
                "so that the parts that the ranks compute cannot be put together. Let the network "
                "return rows, and compute what is over the whole batch (a loss, a mean) outside it"
            )
    return shape.rebuild([function(x) if isinstance(x, Tensor) else x for x in leaves])


class _Joined(torch.autograd.Function):
    """Rows of every rank; the gradient goes back to this rank's."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, shares: Shares) -> Tensor:
        ctx.shares, ctx.ran = shares, local.shape[0]
        return gathered(local, shares)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        own = grad[ctx.shares.part(dist.get_rank())] * len(ctx.shares.counts)
        missing = ctx.ran - own.shape[0]  # the row of a rank that has none
        return (torch.cat([own, own.new_zeros(missing, *own.shape[1:])]) if missing else own), None


class _Cut(torch.autograd.Function):
    """A part of the rows; the gradient comes from all ranks."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, shares: Shares, part: slice) -> Tensor:
        ctx.shares = shares
        return whole[part].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return gathered(grad, ctx.shares) / len(ctx.shares.counts), None, None


def with_gradient(value: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The same tensor; its gradient is what ``change`` makes of it."""
    return _WithGradient.apply(value, change)  # type: ignore[no-any-return, no-untyped-call]


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.change(grad), None


def _mean(grad: Tensor) -> Tensor:
    """A rank's part of the gradient of what every rank has, which engines average."""
    return grad / dist.get_world_size()


def _mean_of_all(grad: Tensor) -> Tensor:
    """The same where each rank has a part of the gradient."""
    grad = grad.contiguous().clone()
    dist.all_reduce(grad)
    return _mean(grad)


def gathered(local: Tensor, shares: Shares) -> Tensor:
    """The rows of all ranks, bit by bit, whatever their dtype.

    Args:
        local: [rows of this rank or more, ...]; all ranks agree on the further axes.
        shares: the rows that count, by rank.
    """
    count, most = shares.counts[dist.get_rank()], max(shares.counts)
    shape = local.shape[1:]
    if not most or not shape.numel():
        return local.new_zeros(shares.rows, *shape)
    numbers = local.new_zeros(most, shape.numel())
    numbers[:count] = local.detach()[:count].reshape(count, shape.numel())
    sent = numbers.view(torch.uint8)
    came = [torch.empty_like(sent) for _ in shares.counts]
    dist.all_gather(came, sent)
    parts = [part.view(local.dtype)[:n] for part, n in zip(came, shares.counts, strict=True)]
    return torch.cat(parts).reshape(shares.rows, *shape)
