"""Phrasings: networks that make a rule's mistake in words of their own, or only seem to.

A file is named after its rule, with ``__`` and a word more where a rule looks at whole files; in
``second/`` each network names its rule.
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
        rule: the rule, where the file is not named after it.
    """

    mistaken: bool
    subject: Callable[..., Any]
    spec: Any
    loss: Any = None
    rule: str | None = None


PHRASINGS: dict[str, list[Phrasing]] = defaultdict(list)
"""By the name of the file's module, in order."""

Decorator = Callable[[Any], Any]


def wrong(*inputs: Any, loss: Any = None, rule: str | None = None, **named: Any) -> Decorator:
    """What makes the mistake, with its inputs: the sizes of one, or several specifications."""
    return _put(True, inputs, loss, rule, named)


def right(*inputs: Any, loss: Any = None, rule: str | None = None, **named: Any) -> Decorator:
    """What does not make the mistake."""
    return _put(False, inputs, loss, rule, named)


def _put(mistaken: bool, inputs: Any, loss: Any, rule: str | None, named: Any) -> Decorator:
    if all(isinstance(size, int | str) for size in inputs) and not named:
        spec = ch.inputs(ch.spec(*(inputs or ("batch", 20))))
    else:
        spec = ch.inputs(*inputs, **named)

    def put(subject: Any) -> Any:
        PHRASINGS[subject.__module__].append(Phrasing(mistaken, subject, spec, loss, rule))
        return subject

    return put
