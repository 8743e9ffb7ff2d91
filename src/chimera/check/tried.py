"""On which numbers a network is run, where a specification leaves them open.

They are made up: standard normal numbers, zeros for integers. A network that takes counts, lengths
or positive numbers may raise on these, or be NaN, without a mistake in it. It is run on others
then: those on which it is finite are taken. What remains is a network that is finite on none.
"""

from collections.abc import Callable, Mapping

from torch import nn

from chimera.build.builder import build
from chimera.build.inputs import Inputs
from chimera.build.twin import replica
from chimera.check.experiment import LARGEST, Experiment, attempted, count, quiet, waits
from chimera.check.given import FEW, TWOS, Numbers, filled, plausible, resized, specified
from chimera.check.operations import Op
from chimera.check.tape import Tape
from chimera.decide.explore import DataNeeded, DidNotEnd


def made(
    net: nn.Module | Callable[[], nn.Module], inputs: Inputs, sizes: Mapping[str, int] | None
) -> Experiment | None:
    """Experiments on a network, or on what a factory makes; None where it cannot be run: it is too
    large, has no data, or fails.

    Args:
        sizes: the sizes of free axes with which it runs; None where those are not known.
    """

    def prepared() -> Experiment | None:
        with quiet():
            built = replica(net) if isinstance(net, nn.Module) else net()
            if any(map(waits, (*built.parameters(), *built.buffers()))):
                build_on(built, inputs, sizes)
            if count(built) > LARGEST:
                return None
            if any(tensor.is_meta for tensor in (*built.parameters(), *built.buffers())):
                return None
            first, *others = plausible(inputs)
            usual = _on(first, built, inputs, sizes)
            if usual.finite or isinstance(usual.failure, DidNotEnd):
                return usual
            for numbers in others:
                other = _on(numbers, built, inputs, sizes)
                if other.finite and not _is_luck(usual, first, numbers, inputs, sizes):
                    other.usual = usual
                    return other
            return usual

    return attempted(prepared)


def build_on(net: nn.Module, inputs: Inputs, sizes: Mapping[str, int] | None) -> None:
    """Give lazy modules their parameters: by shapes, or by numbers where shapes do not do."""
    try:
        build(net, inputs.map(specified), seed=0)
    except DataNeeded:
        build(net, example=filled(inputs, sizes, plausible(inputs)[0])[0], seed=0)


def _on(
    numbers: Numbers, net: nn.Module, inputs: Inputs, sizes: Mapping[str, int] | None
) -> Experiment:
    with quiet():
        given, free = filled(inputs, sizes, numbers)
    whole = Experiment(net, given, free, numbers.told(inputs))
    if free and whole.rows > FEW:
        few = Experiment(net, resized(given, whole.rows, FEW), free, whole.numbers)
        return few if few.evaluation is not None else whole
    return whole


def _is_luck(
    usual: Experiment,
    first: Numbers,
    numbers: Numbers,
    inputs: Inputs,
    sizes: Mapping[str, int] | None,
) -> bool:
    """Whether other numbers may be finite by chance: the logarithm of what a layer with random
    weights gives is finite for some inputs, and is wrong all the same."""
    tape = next((tape for tape in _runs(usual) if not _is_finite(tape)), None)
    if tape is None:  # it raised
        return False
    if numbers.floats == first.floats:
        twos = _on(TWOS, usual.net, inputs, sizes)
        return not all(map(_is_finite, _runs(twos)))
    op = first_not_finite(tape)
    return op is None or _is_mixed(tape, op)


def _runs(experiment: Experiment) -> list[Tape]:
    return [t for t in (experiment.training, experiment.evaluation) if t is not None]


def _is_finite(tape: Tape) -> bool:
    return all(value.finite for value in tape.outputs)


def _is_mixed(tape: Tape, op: Op) -> bool:
    """Whether it took something that was computed from inputs and parameters both."""
    state, given = set(tape.state.values()), set(tape.inputs)
    for value in op.inputs:
        made_of = tape.ancestors((value,))
        if not (made_of.isdisjoint(state) or made_of.isdisjoint(given)):
            return True
    return False


def first_not_finite(tape: Tape) -> Op | None:
    """The operation that made the first NaN on the way to the output, or the first infinity."""
    wanted = tape.ancestors(tape.outputs)
    ops = [op for op in tape.ops if not wanted.isdisjoint(op.outputs)]
    for op in ops:
        if any(v.nan for v in op.outputs) and not any(v.nan for v in op.inputs):
            return op
    for op in ops:
        if not all(v.finite for v in op.outputs) and all(v.finite for v in op.inputs):
            return op
    return None
