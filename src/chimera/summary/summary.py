"""``summary``: a network seen as a tree, before a run."""

from typing import Any

from torch import nn

from chimera.build.construct import Factory, check_factory, construct, construct_without_data
from chimera.build.inputs import as_specified
from chimera.build.modes import modes_restored
from chimera.build.trial import as_example, try_example, try_shapes
from chimera.check.check import looked
from chimera.check.context import Context
from chimera.paths.arguments import as_flag
from chimera.summary.flow import flow
from chimera.summary.measure import measured
from chimera.summary.report import Summary
from chimera.summary.tree import tree
from chimera.summary.watch import Watch


@modes_restored()
def summary(
    module_or_factory: nn.Module | Factory,
    spec: Any = None,
    measure: bool = False,
    example: Any = None,
    check: bool = True,
) -> Summary:
    """A network as a tree: shapes, parameters, cost, ties, findings.

    The network is neither built nor changed: a copy without data runs, and ``ch.check`` looks,
    which also runs small copies with data.

    Args:
        module_or_factory: a module, or a class or function without arguments that makes one. It
            is called without data, so that a network of any size can be asked for; with data for
            ``measure`` and ``example``.
        spec: the inputs: ``ch.spec(2, 20)``, or ``ch.inputs(...)`` for several.
        measure: whether the time of each module's forward is measured, on a copy with data.
        example: real inputs, in the place of ``spec``, for a network whose shapes depend on data.
        check: whether ``ch.check`` looks too; without it a large network is done sooner.

    Raises:
        TypeError: an argument is not what it should be.
        ValueError: ``measure`` is asked for of a network on the meta device.
        Exception: what the network raises when it runs, with a note that names the module.
    """
    if spec is None and example is None:
        raise TypeError("summary: give spec=ch.spec(...), or example= real tensors")
    measure, check = as_flag("measure", measure), as_flag("check", check)
    inputs = as_specified(spec) if example is None else as_example(example)
    net: Any = module_or_factory
    factory: Factory | None = None
    if not isinstance(net, nn.Module):
        factory = check_factory(net, "module_or_factory")
        real = measure or example is not None
        net = construct(factory, (), {}, 0, 0) if real else construct_without_data(factory)
    watches: list[Watch] = []

    def watch(copy: nn.Module) -> Watch:
        watches.append(Watch(copy))
        return watches[-1]

    trial = (try_shapes if example is None else try_example)(net, inputs, watch=watch)
    (seen,) = (watch for watch in watches if watch.net is trial.net)
    seconds = measured(net, inputs, trial.sizes) if measure else None
    shared = trial if example is None else None
    context = Context(net, spec=inputs, factory=factory, tried=shared)
    root = tree(net, trial, seen, looked(context) if check else [], seconds)
    return Summary(root, dict(trial.sizes), measure, flow(seen), net)
