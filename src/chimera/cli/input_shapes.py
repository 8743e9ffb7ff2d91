"""``--input``, once for each input of a network: its shape and dtype, or a file of an example."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chimera.build.inputs import Inputs, inputs
from chimera.build.spec import Spec, spec
from chimera.cli.mistake import Mistake, one_line
from chimera.cli.options import shape

if TYPE_CHECKING:
    from torch import Tensor

_FILES = (".npy", ".pt", ".pth")


def given_inputs(texts: Sequence[str]) -> Inputs:
    """The inputs that the texts describe: ``2,20``, ``batch,20``, ``2,20:int64``, ``words.npy``,
    each after its name where forward takes it by name: ``mask=2,20:bool``.

    Raises:
        Mistake: a text describes none.
    """
    args, kwargs = [], {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if equals and name.isidentifier():
            if name in kwargs:
                raise Mistake(f"--input {text}: {name} was given before")
            kwargs[name] = _input(text, rest)
        else:
            args.append(_input(text, text))
    return inputs(*args, **kwargs)


def _input(text: str, described: str) -> "Spec | Tensor":
    if Path(described).suffix in _FILES:
        return _example(text, Path(described))
    import torch

    sizes, colon, name = described.partition(":")
    dtype = getattr(torch, name, None) if colon else torch.float32
    if not isinstance(dtype, torch.dtype):
        raise Mistake(f"--input {text}: {name!r} is no dtype of torch, such as float32 or int64")
    return spec(*shape(sizes), dtype=dtype)


def _example(text: str, file: Path) -> "Tensor":
    """The tensor in a file, read without running any code of it."""
    import numpy as np
    import torch

    if not file.is_file():
        raise Mistake(f"--input {text}: there is no file {file}")
    try:
        if file.suffix == ".npy":
            with file.open("rb") as opened:
                return torch.from_numpy(np.lib.format.read_array(opened, allow_pickle=False))
        found = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise Mistake(f"--input {text}: {file} cannot be read: {one_line(error)}") from error
    except Exception as error:
        what = "array of numbers as numpy.save(file, array)"
        if file.suffix != ".npy":
            what = "tensor as torch.save(tensor, file)"
        raise Mistake(f"--input {text}: {file} holds no {what} writes it") from error
    if not isinstance(found, torch.Tensor):
        raise Mistake(f"--input {text}: {file} holds a {type(found).__name__}, expected one tensor")
    return found
