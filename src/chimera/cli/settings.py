"""``--set key=value``: the arguments of a constructor, read as Python literals and checked.

``--set key=value,value`` gives the members these values in turn.

A value that is no literal is a string, so that ``--set activation=relu`` needs no quotes. What an
annotation of the constructor says is held to: ``int``, ``float`` (a whole number will do),
``bool``, ``str``, ``None``, a union, a ``Literal`` or a container; others are not looked at.
"""

import ast
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chimera.build.construct import name_of
from chimera.cli.in_turn import InTurn, parts_of
from chimera.cli.mistake import Mistake, one_line

_EMPTY = inspect.Parameter.empty
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY,)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def read_settings(pairs: Sequence[str]) -> dict[str, str]:
    """``["hidden=32", ...]`` as a mapping from name to text.

    Raises:
        Mistake: a pair has no ``=``, a name is none, or a name comes twice.
    """
    settings: dict[str, str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise Mistake(f"--set {pair}: expected key=value, as in --set hidden=32")
        if name in settings:
            raise Mistake(f"--set {name} is given twice: {settings[name]!r} and {text!r}")
        settings[name] = text
    return settings


def check_settings(
    constructor: Callable[..., Any],
    settings: Mapping[str, str],
    given: Sequence[str] = (),
    name: str | None = None,
) -> dict[str, Any]:
    """The keyword arguments of ``constructor`` that ``settings`` mean, some of them ``InTurn``.

    Args:
        constructor: a class or a function.
        settings: texts by the name of the argument.
        given: names of arguments that come from elsewhere, and so are neither missing nor free.
        name: what the constructor is called in messages; its own name unless given.

    Raises:
        Mistake: a name is no argument of the constructor, a value does not fit its annotation, or
            an argument without a default is missing.
    """
    called = name or name_of(constructor)
    try:
        parameters = _signature(constructor).parameters
    except ValueError as error:
        raise Mistake(f"{called} does not tell what arguments it takes: {error}") from error
    free = {
        key: parameter
        for key, parameter in parameters.items()
        if parameter.kind not in (*_POSITIONAL, *_VARIADIC) and key not in given
    }
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    values: dict[str, Any] = {}
    for key, text in settings.items():
        if key not in free and (not takes_any or key in given):
            raise Mistake(f"--set {key}: {called} has no such argument; {_listed(free)}")
        parts = parts_of(text)
        if len(parts) > 1 and not all(part.strip() for part in parts):
            raise Mistake(
                f"--set {key}={text}: expected a value between commas, for the members in turn; "
                f"a tuple is written --set '{key}=({text})'"
            )
        found = [_value(called, key, part, free.get(key)) for part in parts]
        values[key] = found[0] if len(found) == 1 else InTurn(tuple(found))
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.kind not in _VARIADIC
        and parameter.default is _EMPTY
        and key not in values
        and key not in given
    ]
    if missing:
        wanted = " ".join(f"--set {key}=VALUE" for key in missing)
        raise Mistake(f"{called} needs {', '.join(missing)}: give {wanted}")
    return values


def _listed(parameters: Mapping[str, inspect.Parameter]) -> str:
    if not parameters:
        return "it takes none"
    return f"expected one of {', '.join(sorted(parameters))}"


def _signature(constructor: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(constructor, eval_str=True)
    except (NameError, AttributeError, TypeError, SyntaxError):
        # An annotation that names what is not there at run time: annotations stay texts.
        return inspect.signature(constructor)


def _value(called: str, key: str, text: str, parameter: inspect.Parameter | None) -> Any:
    expected = _EMPTY if parameter is None else parameter.annotation
    value = _literal(text)
    if expected is _EMPTY and parameter is not None:
        expected = _from_default(parameter.default)
    if expected is _EMPTY or _fits(value, expected):
        return value
    if _fits(text, expected):
        return text
    raise Mistake(
        f"--set {key}={text}: {called} expects {key} to be {_named(expected)}, "
        f"got {one_line(repr(value))}, which is {_kind(value)}"
    )


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _from_default(default: Any) -> Any:
    """What a default says where there is no annotation: a number is wanted, or a truth value."""
    if isinstance(default, bool):
        return bool
    if isinstance(default, (int, float)):
        return float
    return _EMPTY


def _fits(value: Any, expected: Any) -> bool:
    origin = typing.get_origin(expected)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(expected))
    if origin is typing.Literal:
        return any(value == option and type(value) is type(option) for option in _options(expected))
    if origin is typing.Annotated:
        return _fits(value, typing.get_args(expected)[0])
    if expected in (None, types.NoneType):
        return value is None
    if expected is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if expected in (bool, str, list, dict, set, tuple):
        return isinstance(value, expected)
    if origin in (list, dict, set, tuple):
        return isinstance(value, origin)
    return True


def _options(literal: Any) -> tuple[Any, ...]:
    return typing.get_args(literal)


def _named(expected: Any) -> str:
    names = {
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        str: "a string",
        types.NoneType: "None",
    }
    origin = typing.get_origin(expected)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_named(option) for option in typing.get_args(expected))
    if origin is typing.Literal:
        return f"one of {', '.join(repr(option) for option in _options(expected))}"
    if origin is typing.Annotated:
        return _named(typing.get_args(expected)[0])
    return names.get(expected) or one_line(getattr(expected, "__name__", expected))


def _kind(value: Any) -> str:
    kinds = {
        bool: "a truth value",
        int: "a whole number",
        float: "a number with a fraction",
        str: "a string",
        type(None): "None",
    }
    return kinds.get(type(value), f"a {type(value).__name__}")
