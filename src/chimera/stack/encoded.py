"""Extra states in a file, attributes, too: what JSON gives back as it is, and trees of the rest.

A tree keeps types: tuples, sets, tables with keys that are no strings, bytes, complex numbers, NaN.
Its tensors stand in the file beside those of the module. Nothing in it is code: what is read is one
of the kinds that ``_made`` knows, or the file is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chimera.store import CheckpointError

_DTYPES = {str(d).removeprefix("torch."): d for d in vars(torch).values() if type(d) is torch.dtype}


@dataclass
class Encoded:
    """Extra states as a file holds them.

    Attributes:
        plain: by name, those that JSON gives back as they are.
        trees: by name, the others.
        tensors: of the trees, by their names in the file.
    """

    plain: dict[str, Any] = field(default_factory=dict)
    trees: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, value: Any, home: str) -> None:
        """Take an extra state; its tensors are called ``home`` with a number.

        Raises:
            ValueError: it holds what no file can say.
        """
        try:
            self.plain[name] = as_json(name, value)
            return
        except ValueError:
            pass
        try:
            self.trees[name] = self._tree(value, home)
        except _Unsayable as error:
            raise ValueError(
                f"the extra state {name!r} holds a {error}, which a file cannot say; expected "
                "tensors, numbers, texts, bytes, None, and lists, tuples, sets and dicts of them"
            ) from None
        except RecursionError:
            raise ValueError(f"the extra state {name!r} holds itself, or nests too deep") from None

    def _tree(self, value: Any, home: str) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind in (Tensor, nn.Parameter, nn.Buffer) and value.layout is torch.strided:
            name = f"{home}.{len(self.tensors)}"
            self.tensors[name] = value
            grad = kind is nn.Parameter and value.requires_grad
            return ["parameter" if kind is nn.Parameter else "tensor", [name, grad]]
        if kind in _SEQUENCES:
            return [_SEQUENCES[kind], [self._tree(one, home) for one in value]]
        if kind in _TABLES:
            pairs = [[self._tree(key, home), self._tree(one, home)] for key, one in value.items()]
            return [_TABLES[kind], pairs]
        if kind in (float, complex):
            return [kind.__name__, repr(value)]
        if kind is bytes:
            return ["bytes", base64.b64encode(value).decode()]
        if kind is torch.dtype:
            return ["dtype", str(value).removeprefix("torch.")]
        if kind is torch.device:
            return ["device", str(value)]
        raise _Unsayable(kind.__name__)


_SEQUENCES: dict[type, str] = {
    list: "list",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    torch.Size: "size",
}
_TABLES: dict[type, str] = {dict: "dict", OrderedDict: "ordered"}


_UNMADE = (
    *(TypeError, ValueError, KeyError, RuntimeError, RecursionError, AttributeError),
    *(binascii.Error, OverflowError),
)


class _Unsayable(Exception):
    """Holds a value of this kind."""


def as_tree(value: Any) -> Any:
    """A value without tensors as JSON can say it; ``from_tree`` gives back the same types.

    Raises:
        ValueError: it holds a tensor, or what no file can say.
    """
    held = Encoded()
    try:
        tree = held._tree(value, "")
    except _Unsayable as error:
        raise ValueError(f"it holds a {error}, which a file cannot say") from None
    except RecursionError:
        raise ValueError("it holds itself, or nests too deep") from None
    if held.tensors:
        raise ValueError("it holds a tensor")
    return tree


def from_tree(tree: Any) -> Any:
    """The value that ``as_tree`` told, made anew.

    Raises:
        ValueError: it tells none.
    """
    try:
        return _made(tree, {})
    except _UNMADE as error:
        raise ValueError(f"{tree!r:.80} tells no value") from error


def decoded(trees: Any, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """The extra states that ``trees`` say, by name, and the names of the tensors that they hold.

    Raises:
        CheckpointError: they say none.
    """
    try:
        return {str(name): _made(tree, tensors) for name, tree in dict(trees).items()}
    except _UNMADE as error:
        raise CheckpointError(f"{path}: its extra states do not say what they hold") from error


def tensors_of(trees: Any) -> list[str]:
    """The names of the tensors that trees hold."""
    found, left = [], [trees]
    while left:
        here = left.pop()
        if isinstance(here, dict):
            left.extend(here.values())
        elif isinstance(here, list):
            if len(here) == 2 and here[0] in ("tensor", "parameter") and isinstance(here[1], list):
                found += [name for name in here[1][:1] if isinstance(name, str)]
            else:
                left.extend(here)
    return found


def _made(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if tree is None or type(tree) in (bool, int, str):
        return tree
    tag, content = tree
    for kinds in (_SEQUENCES, _TABLES):
        for kind, name in kinds.items():
            if tag == name and kinds is _SEQUENCES:
                return kind(_made(one, tensors) for one in _list(content))
            if tag == name:
                pairs = [_list(pair) for pair in _list(content)]
                return kind((_made(key, tensors), _made(one, tensors)) for key, one in pairs)
    if tag == "tensor":
        return tensors[content[0]].clone()
    if tag == "parameter":
        return nn.Parameter(tensors[content[0]].clone(), requires_grad=content[1] is True)
    if tag in ("float", "complex"):
        return float(content) if tag == "float" else complex(content)
    if tag == "bytes":
        return base64.b64decode(content, validate=True)
    if tag == "dtype":
        return _DTYPES[content]
    if tag == "device":
        return torch.device(content)
    raise ValueError(f"{tag!r:.40} is no kind of value")


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise ValueError("expected a list")
    return value


def as_json(name: str, value: Any) -> Any:
    """``value`` if JSON gives it back as it is; ValueError if not."""
    try:
        back = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the extra state {name!r} cannot be written as JSON: {error}") from error
    if not _identical(value, back):
        raise ValueError(
            f"the extra state {name!r} would come back from JSON as something else, expected "
            "tables with string keys, lists, strings, numbers, booleans and None only"
        )
    return value


def _identical(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(_identical(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_identical, a, b))
    return bool(a == b)
