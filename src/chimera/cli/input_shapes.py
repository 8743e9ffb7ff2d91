"""``--input``, once for each input of a network: its shape, and its dtype after a colon."""

from collections.abc import Sequence

from chimera.build.inputs import Inputs, inputs
from chimera.build.spec import Spec, spec
from chimera.cli.mistake import Mistake
from chimera.cli.options import shape


def given_inputs(shapes: Sequence[str]) -> Inputs:
    """The inputs that the texts describe: ``2,20``, ``batch,20``, ``2,20:int64``.

    Raises:
        Mistake: a text describes none.
    """
    return inputs(*map(_spec, shapes))


def _spec(text: str) -> Spec:
    import torch

    sizes, colon, name = text.partition(":")
    dtype = getattr(torch, name, None) if colon else torch.float32
    if not isinstance(dtype, torch.dtype):
        raise Mistake(f"--input {text}: {name!r} is no dtype of torch, such as float32 or int64")
    return spec(*shape(sizes), dtype=dtype)
