"""`check`: mistakes in a network, found before a run."""

import functools
import gc
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from chimera.build.construct import construct_without_data
from chimera.build.inputs import Inputs, as_specified
from chimera.build.modes import modes_restored
from chimera.check.attributes import classes_restored
from chimera.check.context import Context, blamed, hidden, not_started
from chimera.check.finding import Finding, in_order
from chimera.check.ignore import ignored
from chimera.check.places import Places
from chimera.check.rule import Rule, all_rules
from chimera.decide.ending import Exited, not_exiting
from chimera.draws.seeds import forked


def check(
    module: nn.Module | Callable[[], nn.Module],
    spec: Any = None,
    loss: Any = None,
    ignore: Iterable[str] = (),
) -> list[Finding]:
    """Look for mistakes in a network: in its tree, its attributes and its source.

    The network is not changed. With ``spec`` a copy of it runs, without data. Source comments
    ``# chimera: ignore[rule]``, on a line or on a ``class`` statement, leave findings out.

    Args:
        module: a module, or a class or factory of one, which is called without arguments, on the
            meta device where that goes. Where its constructor fails, that is a finding, and its
            source is looked at.
        spec: what the network takes: ``ch.spec(...)``, ``ch.inputs(...)`` or example tensors.
        loss: the loss that it is trained with, a module or a function of ``torch.nn.functional``.
        ignore: names of rules to leave out.

    Returns:
        Findings, errors first, then warnings, then what is worth knowing.

    Raises:
        TypeError: ``module`` is neither a module nor callable, ``spec`` describes no inputs, or
            ``loss`` is neither a module nor a function.
        ValueError: ``ignore`` names a rule that does not exist.
    """
    rules = all_rules()
    left_out = [ignore] if isinstance(ignore, str) else list(ignore)
    for name in left_out:
        if name not in rules and name != _CONSTRUCTOR:
            raise ValueError(
                f"ignore: there is no check rule {name!r}; there are: {', '.join(sorted(rules))}"
            )
    if loss is not None and (isinstance(loss, type) or not callable(loss)):
        raise TypeError(
            "loss must be a module or a function, such as nn.MSELoss() or nn.functional.mse_loss; "
            f"got {loss!r:.60}"
        )
    inputs = None if spec is None else as_specified(spec)
    with modes_restored():
        context, failure = _context(module, inputs, loss)
        found = looked(context, left_out)
    worst = any(finding.severity == "error" for finding in found)
    explained = worst and not isinstance(context.refused, Exited)
    if failure is not None and not explained and _CONSTRUCTOR not in left_out:
        found.append(failure)
    return in_order(found)


def looked(context: Context, left_out: Iterable[str] = ()) -> list[Finding]:
    """What the rules find, but for those named in ``left_out``, the worst first."""
    hides = [hidden(module) for _, module in context.modules]
    with classes_restored(context.uses), modes_restored(), _seldom_collected():
        found = [
            finding
            for name, rule in all_rules().items()
            if name not in left_out and (name == _CLASHES or not any(hides))
            for finding in _of(rule, context)
        ]
        places = Places(context)
        return in_order([_placed(f, places) for f in found if not ignored(f, context, places)])


def _placed(finding: Finding, places: Places) -> Finding:
    """The finding with the line that makes what it is about, if it has no line."""
    made = None if finding.file is not None else places.of(finding.path)
    return finding if made is None else replace(finding, file=made[0].path, line=made[1])


def _of(rule: Rule, context: Context) -> Iterator[Finding]:
    """What a rule finds; an error of its own names it, so that it can be left out."""
    try:
        yield from rule.findings(context)
    except Exception as error:
        error.add_note(f'in the check rule {rule.name}: ignore=["{rule.name}"] leaves it out')
        raise


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Few searches for garbage: recordings are many small objects that stay, and each search, of
    which there would be hundreds, walks through them."""
    before = gc.get_threshold()
    gc.set_threshold(max(_OBJECTS, before[0]) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


_OBJECTS = 100_000
"""As many more must there be before a search."""

_CLASHES = "clashing-name"
"""The one rule for a network of which methods of nn.Module are hidden."""

_CONSTRUCTOR = "constructor-fails"


def _context(module: Any, spec: Inputs | None, loss: Any) -> tuple[Context, Finding | None]:
    """What the rules look at, and the finding that there is no network where there is none."""
    factory = None
    if not isinstance(module, nn.Module):
        if not callable(module):
            raise TypeError(
                f"module: expected a module, a class or a factory, got {type(module).__name__}"
            )
        factory = module
        made, error = _made(module)
        if isinstance(made, Finding):
            kind = class_of(module)
            named = ((kind.__qualname__, kind),) if kind is not None else ()
            return Context(None, named, spec, loss, refused=error), made
        module = made
    broken = not_started(module)
    if broken:
        return Context(None, tuple((path, type(p)) for path, p in broken), spec, loss), None
    return Context(module, spec=spec, loss=loss, factory=factory), None


def class_of(factory: Any) -> type[nn.Module] | None:
    """The class that a factory makes, where it is one, or a functools.partial of one."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    return factory if isinstance(factory, type) and issubclass(factory, nn.Module) else None


def _made(factory: Callable[[], nn.Module]) -> tuple[nn.Module | Finding, Exception | None]:
    """What ``factory`` makes, without data if that goes, or why it makes nothing."""
    try:
        return construct_without_data(factory), None
    except Exception:  # noqa: BLE001 - whatever it was, the same call with data decides
        try:
            with warnings.catch_warnings(), forked(0), not_exiting():
                warnings.simplefilter("ignore")
                made = factory()
        except Exception as error:  # noqa: BLE001 - reported as a finding
            return _failed(factory, error), error
    if not isinstance(made, nn.Module):
        raise TypeError(
            f"module: {_name(factory)} returned {type(made).__name__}, expected a module"
        )
    return made, None


def _failed(factory: Callable[[], nn.Module], error: Exception) -> Finding:
    file, line = blamed(error)
    return Finding(
        rule=_CONSTRUCTOR,
        severity="error",
        path=_name(factory),
        message=f"{_name(factory)}() raises {type(error).__name__}: {error}",
        why="Nothing can be checked, built or run before the network can be constructed.",
        mend="Mend the constructor, or give a function that calls it with its arguments.",
        file=file,
        line=line,
    )


def _name(factory: Any) -> str:
    if isinstance(factory, functools.partial):
        return f"partial({_name(factory.func)})"
    return str(getattr(factory, "__qualname__", None) or type(factory).__qualname__)
