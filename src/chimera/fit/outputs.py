"""Does a network's output fit the task? Asked before training, of a copy, with the data's shape."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from chimera.build.pointing import point_out
from chimera.fit.data import Data
from chimera.fit.losses import same_but_trailing_ones

_SAMPLES = 2


def check_output(member: nn.Module, data: Data, who: str) -> None:
    """Runs ``member``, a copy nobody else needs, on two samples and looks at what comes out.

    Args:
        member: a plain module; its modes and buffers may change.
        data: on the member's device and in its dtype.
        who: what the member is called in the message.

    Raises:
        ValueError: a task's own loss and metric cannot take the output.
        Exception: what the member's forward raises, with a note of who, where and on what.
    """
    samples = min(_SAMPLES, len(data.train))
    x = data.train.x[:samples]
    paths = {layer: path for path, layer in member.named_modules() if path}
    produced: dict[int, str] = {}

    def note(layer: nn.Module, _: Any, output: Any) -> None:
        produced[id(output)] = f"its layer {paths[layer]!r} ({type(layer).__name__})"

    try:
        with torch.no_grad(), torch.random.fork_rng(), ExitStack() as hooks:
            for layer in paths:
                hooks.enter_context(layer.register_forward_hook(note))
            output: Any = member.eval()(x)
    except Exception as error:
        point_out(error, member, who)
        raise
    expected = _misfit(output, data, samples)
    if expected:
        layer = produced.get(id(output), "its forward")
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"the output of {who} does not fit the data: for x {list(x.shape)} {layer} gave {got}, "
            f"expected {expected}; or give loss= and metric= that take it"
        )


def _misfit(output: object, data: Data, samples: int) -> str | None:
    """What was expected, where ``output`` is something else."""
    shape = tuple(output.shape) if isinstance(output, Tensor) else None
    if data.classes is not None:
        match shape:
            case (rows, scores) if rows == samples and scores >= data.classes:
                return None
        return f"[{samples}, {data.classes}], a score for each of {data.classes} classes"
    target = (samples, *data.train.y.shape[1:])
    if shape is not None and same_but_trailing_ones(shape, target):
        return None
    text = f"{list(target)}, the shape of y"
    if shape is not None and len(shape) == 2 and len(target) == 1 and _is_whole(data.train.y):
        text += " (a y of floats means regression: classes are y.long())"
    return text


def _is_whole(y: object) -> bool:
    """Whether all numbers are whole, from 0."""
    return isinstance(y, Tensor) and bool((y == y.round()).all() and (y >= 0).all())
