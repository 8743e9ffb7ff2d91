"""Masks that are inverted, or that come after the softmax."""

from collections.abc import Iterable

import torch
from torch import Tensor

from chimera.check.context import Context
from chimera.check.operations import Op, Value, through
from chimera.check.rule import Place, Rule
from chimera.check.tape import Tape

_BETWEEN = frozenset(("view", "reshape", "transpose", "permute", "unsqueeze", "squeeze", "dropout"))


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.evaluation is None:
        return
    said: set[tuple[str, str | None, int | None]] = set()
    for place in _mistaken(experiment.evaluation):
        # What MultiheadAttention makes of a mask is told once.
        if (place.path, place.file, place.line) not in said:
            said.add((place.path, place.file, place.line))
            yield place


def _mistaken(tape: Tape) -> Iterable[Place]:
    for op in tape.ops:
        if op.name in ("masked_fill", "masked_fill_"):
            filled = op.argument("value", 2)
            if not (isinstance(filled, (int, float)) and filled <= -1e3):
                continue
            *_, value = through(op.inputs[0], _BETWEEN)
            if value.maker is not None and value.maker.name == "softmax":
                yield _place(
                    op,
                    f"{op.name} with {filled:g} behind a softmax: what is left out is to be 0 "
                    "there, or minus infinity before",
                    "Mask the scores before the softmax.",
                )
            if _triangle(op.argument("mask", 1)) == "lower":
                yield _place(
                    op,
                    _INVERTED,
                    "Invert the mask: masked_fill(~mask, ...), or use torch.triu(..., diagonal=1).",
                )
        elif op.name == "where" and len(op.args) == 3:
            condition, yes, no = op.args
            inverted = {"lower": yes, "upper": no}.get(_triangle(condition) or "")
            if isinstance(inverted, (int, float)) and inverted <= -1e3:
                yield _place(op, _INVERTED, "Invert the mask: exchange the two values.")
        elif op.name in _ADDS and (late := _added_late(op)) is not None:
            yield _place(op, late, "Add the mask to the scores before the softmax.")
        elif op.name in _ADDS and _into_softmax(op):
            if any(_triangle(value, left=True) == "lower" for value in op.inputs):
                yield _place(
                    op, _INVERTED, "Use torch.triu(..., diagonal=1) for what is to be left out."
                )
        elif op.name == "scaled_dot_product_attention":
            mask = op.argument("attn_mask", 3)
            if _triangle(mask, left=True) == "lower":
                yield _place(
                    op, _INVERTED, "Use torch.triu(..., diagonal=1), or write is_causal=True."
                )
            if _triangle(mask) == "upper":
                yield _place(
                    op,
                    "the mask keeps the future alone: here True means that an entry takes part",
                    "Invert the mask, or write is_causal=True.",
                )
        elif op.name == "multi_head_attention_forward" and (
            "lower"
            in (
                _triangle(op.kwargs.get("attn_mask")),
                _triangle(op.kwargs.get("attn_mask"), left=True),
            )
        ):
            yield _place(
                op,
                "the mask leaves out the past and the position itself: here True means that "
                "an entry is left out",
                "Invert the mask, or use nn.Transformer.generate_square_subsequent_mask.",
            )


_ADDS = ("add", "add_", "__add__", "__radd__", "__iadd__")


def _added_late(op: Op) -> str | None:
    """What is wrong with a mask of large negative numbers that is added to a softmax."""
    for value in op.inputs:
        *_, first = through(value, _BETWEEN)
        others = [other for other in op.inputs if other is not value]
        if first.maker is None or first.maker.name != "softmax":
            continue
        if any(other.left is not None for other in others):
            return (
                "a mask of large negative numbers is added behind a softmax: what is left out is "
                "to be 0 there"
            )
    return None


def _place(op: Op, said: str, mend: str) -> Place:
    return Place(op.path, said, op.file, op.line, mend=mend)


_INVERTED = "the mask leaves out the past and the position itself, and keeps the future"


def _into_softmax(op: Op) -> bool:
    """Whether a softmax reads what a sum gives, with little between."""
    waiting = list(op.outputs)
    while waiting:
        for reader in waiting.pop().readers:
            if reader.name == "softmax":
                return True
            if reader.name in _BETWEEN or reader.name in ("add", "add_", "float"):
                waiting.extend(reader.outputs)
    return False


def _triangle(mask: object, left: bool = False) -> str | None:
    """``"lower"`` where True stands on and below the diagonal alone, ``"upper"`` above it; with
    ``left``, where a sum with the mask leaves out."""
    small: Tensor | None = None
    if isinstance(mask, Value):
        small = mask.left if left else mask.small
    if small is None or small.dim() < 2 or small.shape[-1] != small.shape[-2]:
        return None
    if small.shape[-1] < 2:
        return None
    whole = torch.ones_like(small)
    if bool((small == whole.tril()).all()):
        return "lower"
    return "upper" if bool((small == whole.triu(1)).all()) else None


RULE = Rule(
    name="mistaken-mask",
    severity="error",
    what="A causal mask that is inverted, and a mask that fills minus infinity in behind the "
    "softmax. Needs the specification.",
    why="Attention sees the future and not the past; or the output is infinite. The two "
    "conventions differ: in scaled_dot_product_attention True takes part, in nn.MultiheadAttention "
    "and masked_fill it is left out.",
    mend="Invert the mask.",
    before="""\
import chimera as ch
import torch
from torch import nn


class Net(nn.Module):
    def forward(self, x):
        scores = x @ x.mT
        mask = torch.ones(scores.shape[-2:]).tril().bool()
        return scores.masked_fill(mask, -1e9).softmax(-1) @ x


spec = ch.spec(2, 5, 4)
""",
    after="""\
import chimera as ch
import torch
from torch import nn


class Net(nn.Module):
    def forward(self, x):
        scores = x @ x.mT
        mask = torch.ones(scores.shape[-2:]).tril().bool()
        return scores.masked_fill(~mask, -1e9).softmax(-1) @ x


spec = ch.spec(2, 5, 4)
""",
    find=find,
)
