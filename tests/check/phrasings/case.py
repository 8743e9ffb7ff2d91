"""Phrasings: networks that make a rule's mistake in words of their own, or only seem to.

A file is named after its rule, with ``__`` and a word more where a rule looks at whole files.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chimera as ch


@dataclass(frozen=True)
class Phrasing:
    """One network.

    Attributes:
        mistaken: whether it makes the mistake.
        subject: the class, or what makes the network.
        spec: what it takes.
        loss: what it is trained with, or None.
    """

    mistaken: bool
    subject: Callable[..., Any]
    spec: Any
    loss: Any = None


PHRASINGS: dict[str, list[Phrasing]] = defaultdict(list)
"""By the name of the file's module, in order."""

Decorator = Callable[[Any], Any]


def wrong(*inputs: Any, loss: Any = None, **named: Any) -> Decorator:
    """What makes the mistake, with its inputs: the sizes of one, or several specifications."""
    return _put(True, inputs, loss, named)


def right(*inputs: Any, loss: Any = None, **named: Any) -> Decorator:
    """What does not make the mistake."""
    return _put(False, inputs, loss, named)


def _put(mistaken: bool, inputs: Any, loss: Any, named: Any) -> Decorator:
    if all(isinstance(size, int | str) for size in inputs) and not named:
        spec = ch.inputs(ch.spec(*(inputs or ("batch", 20))))
    else:
        spec = ch.inputs(*inputs, **named)

    def put(subject: Any) -> Any:
        PHRASINGS[subject.__module__].append(Phrasing(mistaken, subject, spec, loss))
        return subject

    return put
