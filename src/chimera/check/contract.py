"""The contract of a module: the five duties that each must do, looked at one by one.

A module (1) takes its inputs, (2) gives an output, (3) lets gradients reach every parameter and the
input, (4) registers its parameters, and (5) initializes them (Zhang et al., Dive into Deep
Learning, section 6.1, https://d2l.ai/chapter_builders-guide/model-construction.html).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chimera.build.inputs import Inputs, as_specified
from chimera.build.modes import modes_restored
from chimera.build.spec import Spec
from chimera.build.twin import replica
from chimera.check.attributes import classes_restored
from chimera.check.check import class_of, looked
from chimera.check.context import Context, hidden, not_started
from chimera.check.duties import (
    GIVES,
    GRADIENTS,
    INITIALIZED,
    REGISTERED,
    TAKES,
    Duty,
    failed,
    gives,
    gradients,
    initialized,
    registered,
)
from chimera.check.experiment import LARGEST, Experiment, called, count, quiet
from chimera.check.given import again, asking
from chimera.check.tried import build_on
from chimera.decide.ending import not_exiting
from chimera.decide.explore import DataNeeded, DidNotEnd
from chimera.draws.seeds import forked
from chimera.paths.nest import flatten
from chimera.paths.notes import point
from chimera.paths.walk import unknown


@dataclass(frozen=True)
class Contract:
    """The five duties of a module, in order; ``str()`` is a line for each."""

    duties: tuple[Duty, ...]

    @property
    def kept(self) -> bool:
        """Whether every duty is done."""
        return all(duty.done for duty in self.duties)

    def __getitem__(self, name: str) -> Duty:
        for duty in self.duties:
            if duty.name == name:
                return duty
        raise unknown(name, (duty.name for duty in self.duties), "duty")

    def __str__(self) -> str:
        return "\n".join(map(str, self.duties))


@modes_restored()
def contract(module: nn.Module | Callable[[], nn.Module], spec: Any) -> Contract:
    """Look whether a module keeps the contract of modules, duty by duty.

    A copy of it is built, runs on made-up inputs of the shapes of ``spec``, and its output is
    differentiated; what ``ch.check`` knows of registration and initialization counts. The module
    itself is not changed, nor is any generator. Each duty is judged by itself: where one cannot be
    found out, as none can where the constructor raises, it says why.

    Args:
        module: a module, or a class or factory of one without arguments.
        spec: what it takes: ``ch.spec(...)``, ``ch.inputs(...)`` or example tensors.

    Raises:
        TypeError: ``module`` is no module and makes none, or ``spec`` describes no inputs.
    """
    if not isinstance(module, nn.Module) and not callable(module):
        raise TypeError(
            f"module: expected a module, a class or a factory, got {type(module).__name__}"
        )
    inputs = as_specified(spec)
    try:
        with warnings.catch_warnings(), forked(0), not_exiting():
            warnings.simplefilter("ignore")
            net = module if isinstance(module, nn.Module) else module()
    except Exception as error:  # noqa: BLE001 - whatever a constructor raises is the answer
        kind = class_of(module)
        kinds: tuple[tuple[str, type], ...] = ()
        if kind is not None:
            kinds = ((kind.__qualname__, kind),)
        said = f"the constructor raises {type(error).__name__}: {error}"
        return _of_none(said, Context(None, kinds, inputs, refused=error))
    if not isinstance(net, nn.Module):
        raise TypeError(f"module: the factory returned {type(net).__name__}, expected a module")
    broken = not_started(net)
    if broken:
        kinds = tuple((path, type(part)) for path, part in broken)
        names = ", ".join(type(part).__name__ for _, part in broken)
        said = f"nn.Module.__init__ never ran in {names}"
        return _of_none(said, Context(None, kinds, inputs))
    context = Context(net, spec=inputs)
    hides = [name for _, part in context.modules for name in hidden(part)]
    if hides:
        return _of_none(f"an attribute hides {', '.join(hides)}() of nn.Module", context)
    with classes_restored(context.uses), quiet(), torch.enable_grad():
        return Contract(_judged(context, net, inputs))


def _of_none(reason: str, context: Context) -> Contract:
    """The contract of what cannot be looked at, and why."""
    lost = [finding for finding in looked(context) if finding.severity == "error"]
    said = f"could not be tried: {reason}"
    told = "; ".join(finding.message for finding in lost)
    return Contract(
        (
            Duty(TAKES, None, said),
            Duty(GIVES, None, said),
            Duty(GRADIENTS, None, said),
            Duty(REGISTERED, False, told) if lost else Duty(REGISTERED, None, said),
            Duty(INITIALIZED, None, said),
        )
    )


def _judged(context: Context, net: nn.Module, inputs: Inputs) -> tuple[Duty, ...]:
    """The duties of a network: what a run with numbers shows, and what a run without, if there can
    be no other."""
    experiment, own = context.experiment, registered(net)
    if experiment is None:
        return (*_by_shapes(context, net, inputs), own, initialized(context, net, False))
    copy, given = replica(experiment.net), experiment.given.map(again)
    before = _versions(given)
    try:
        output = _run(copy, given)
    except Exception as error:  # noqa: BLE001 - whatever a forward raises is the answer
        failure = _unless_data_needed(context.failure)
        takes = _refused(failure or error, failure is not None, experiment, inputs)
        return (*_not_run(takes), own, initialized(context, experiment.net, False))
    changed = [
        i
        for i, (one, other) in enumerate(zip(before, _versions(given), strict=True))
        if one != other
    ]
    said = f"{inputs}; it changes {', '.join(f'input {i}' for i in changed)} in place"
    takes = Duty(TAKES, True, said if changed else str(inputs))
    return (
        takes,
        gives(output),
        _differentiated(experiment, copy, output),
        own,
        initialized(context, experiment.net, True),
    )


def _run(net: nn.Module, given: Inputs) -> Any:
    with not_exiting():
        try:
            return called(net, given)
        except Exception as error:
            point(error, net)
            raise


def _versions(given: Inputs) -> list[int]:
    """How often each input was changed in place."""
    return [leaf._version for leaf in given.leaves() if isinstance(leaf, Tensor)]


def _differentiated(experiment: Experiment, ran: nn.Module, output: Any) -> Duty:
    """By a run whose inputs ask for gradients, without being leaves: those may not change. If that
    raises, by the run ``ran`` without such."""
    copy = replica(experiment.net)
    asked = experiment.given.map(asking)
    passed = asked.map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf)
    try:
        found = _run(copy, passed)
    except Exception as error:  # noqa: BLE001 - whatever a forward raises is the answer
        return gradients(ran, None, output, error)
    return gradients(copy, asked, found, None)


def _unless_data_needed(error: Exception | None) -> Exception | None:
    return None if isinstance(error, DataNeeded) else error


def _refused(error: Exception, surely: bool, experiment: Experiment, inputs: Inputs) -> Duty:
    """Of a forward that raises. Made-up numbers may be none that it takes."""
    examples = not any(isinstance(leaf, Spec) for leaf in inputs.leaves())
    if isinstance(error, DidNotEnd) or not (surely or examples):
        on = f" on {' and '.join(experiment.numbers)}" if experiment.numbers else ""
        return Duty(TAKES, None, f"forward raises{on}; give examples: {failed(error)}")
    return Duty(TAKES, False, failed(error))


def _not_run(takes: Duty) -> tuple[Duty, Duty, Duty]:
    untried = "could not be tried, since forward raises"
    return takes, Duty(GIVES, None, untried), Duty(GRADIENTS, None, untried)


def _by_shapes(context: Context, net: nn.Module, inputs: Inputs) -> tuple[Duty, Duty, Duty]:
    """Of a network that no numbers are run through: what shapes tell."""
    error = context.failure
    if error is None or isinstance(error, DataNeeded):
        try:
            build_on(replica(net), inputs, context.trial.sizes if context.trial else None)
        except Exception as raised:  # noqa: BLE001 - what keeps it from being run
            error = raised
    if error is not None:
        surely = error is context.failure and not isinstance(error, (DataNeeded, DidNotEnd))
        done = False if surely or context.trial is not None else None
        return _not_run(Duty(TAKES, done, failed(error)))
    assert context.trial is not None
    large = count(net) > LARGEST
    why = f"it has more than {LARGEST:,} parameters" if large else "it has no data"
    return (
        Duty(TAKES, True, f"{inputs}, by their shapes"),
        _shapes_of(context.trial.output),
        Duty(GRADIENTS, None, f"could not be tried with numbers: {why}"),
    )


def _shapes_of(output: Any) -> Duty:
    shapes = [leaf.shape for leaf in flatten(output)[0] if isinstance(leaf, Spec)]
    if not shapes:
        return Duty(GIVES, False, f"forward returns {type(output).__name__}, with no tensor in it")
    return Duty(GIVES, True, ", ".join(str(list(shape)) for shape in shapes))
