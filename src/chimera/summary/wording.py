"""How figures and shapes are written: ``11.7M``, ``44.6 MiB``, ``2×3×224×224``."""  # noqa: RUF002

from typing import Any

import torch

from chimera.build.inputs import Inputs
from chimera.build.spec import Spec
from chimera.paths.nest import flatten
from chimera.paths.wants import name_of


def short(number: int) -> str:
    """``number`` in at most five characters: ``640``, ``11.7M``."""
    return _scaled(float(number), 1000, ("", "k", "M", "G", "T", "P", "E"))


def size(count: int) -> str:
    """Bytes, in at most eight characters: ``44.6 MiB``."""
    return _scaled(float(count), 1024, (" B", " KiB", " MiB", " GiB", " TiB", " PiB"))


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    unit = 0
    while unit < len(units) - 1 and max(value, float(f"{value:.3g}")) >= base:
        value /= base
        unit += 1
    if unit == 0:
        return f"{value:.0f}{units[0]}"
    places = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{places}f}{units[unit]}"


def percent(share: float) -> str:
    """A share of 1 in whole percent; ``<1%`` for what is less but not nothing."""
    return "<1%" if 0 < share < 0.01 else f"{100 * share:.0f}%"


def shape(spec: Spec) -> str:
    """``2×64×56×56``; the dtype goes before unless it is float32; ``()`` is a number."""  # noqa: RUF002
    sizes = "×".join(map(str, spec.shape)) or "()"  # noqa: RUF001
    return sizes if spec.dtype == torch.float32 else f"{name_of(spec.dtype)} {sizes}"


def shapes(value: Any) -> str:
    """The tensors among inputs or outputs, separated by commas; ``-`` where there are none."""
    parts = (value.args, value.kwargs) if isinstance(value, Inputs) else value
    found = [shape(leaf) for leaf in flatten(parts)[0] if isinstance(leaf, Spec)]
    return ", ".join(found) or "-"


def change(inputs: Any, output: Any) -> tuple[str, str]:
    """What comes in and what goes out; the second is empty where they are of one shape."""
    before, after = shapes(inputs), shapes(output)
    return before, "" if before == after else after
