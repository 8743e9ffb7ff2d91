"""Networks that are not the same after they were saved and loaded."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from chimera.build.twin import replica
from chimera.check.attributes import held
from chimera.check.context import Context
from chimera.check.experiment import Experiment, called, quiet
from chimera.check.rule import Place, Rule
from chimera.draws.seeds import forked
from chimera.paths.nest import tensors_in
from chimera.paths.walk import join


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.evaluation is None:
        return
    try:
        with quiet():
            state = replica(experiment.net).state_dict()
            copy = replica(experiment.net)
            left = copy.load_state_dict(state, strict=False)
    except Exception as error:  # noqa: BLE001 - whatever the network raises is the answer
        yield Place(
            "", f"load_state_dict() of its own state_dict() raises {type(error).__name__}: {error}"
        )
        return
    for keys, said in ((left.missing_keys, "lacks"), (left.unexpected_keys, "holds")):
        if keys:
            listed = ", ".join(f"`{key}`" for key in keys[:4])
            what = "which the network expects" if said == "lacks" else "which it does not know"
            yield Place(keys[0].rpartition(".")[0], f"state_dict() {said} {listed}, {what}")
    if context.factory is not None and not left.missing_keys and not left.unexpected_keys:
        yield from _of_another(context, experiment, state)


def _of_another(context: Context, experiment: Experiment, state: Any) -> Iterable[Place]:
    """What another instance, drawn anew, lacks after it has loaded the state."""
    assert context.factory is not None
    try:
        with quiet(), forked(1):
            other = context.factory().eval()
            if any(nn.parameter.is_lazy(t) for t in other.state_dict(keep_vars=True).values()):
                return
            other.load_state_dict(state)
        one, loaded = experiment.predicted or [], _output(other, experiment)
        if _same(one, loaded) or not _same(one, _output(experiment.net, experiment)):
            return
    except Exception:  # noqa: BLE001 - told by other rules
        return
    else:
        yield from _differences(context, experiment.net, other)


def _output(net: nn.Module, experiment: Experiment) -> list[Tensor]:
    given = experiment.given.map(lambda t: t.clone() if isinstance(t, Tensor) else t)
    with quiet(), torch.no_grad():
        output = called(replica(net).eval(), given)
    return tensors_in(output, objects=True)


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )


def _differences(context: Context, net: nn.Module, other: nn.Module) -> Iterable[Place]:
    """The tensors outside of the state in which two instances differ."""
    found = False
    others = dict(other.named_modules())
    for path, module in net.named_modules():
        if path not in others:
            continue
        # What is kept in plain attributes is the business of other rules.
        found |= any(True for _ in held(module, nn.Module)) or any(
            True for _ in held(module, Tensor)
        )
        for name in module._non_persistent_buffers_set:
            mine, its = module._buffers[name], others[path]._buffers.get(name)
            if mine is not None and its is not None and not _same([mine], [its]):
                found = True
                file, line = context.assigned(type(module), name)
                yield Place(
                    path,
                    f"`{join(path, name)}` is drawn, is not in state_dict(), and the output "
                    "depends on it",
                    file,
                    line,
                )
    if not found:
        yield Place("", "another instance computes something else after load_state_dict()")


RULE = Rule(
    name="not-restored",
    severity="error",
    what="A state_dict() that its own network does not take back, or after which another instance "
    "computes something else: a drawn constant that is not persistent or not registered. Needs the "
    "specification, and the class.",
    why="A checkpoint does not hold the network: what is loaded is another one, most often "
    "without a word.",
    mend="Register what is drawn as a persistent buffer: self.register_buffer(name, tensor).",
    before="""\
import chimera as ch
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("projection", torch.randn(20, 5), persistent=False)

    def forward(self, x):
        return x @ self.projection


spec = ch.spec(2, 20)
""",
    after="""\
import chimera as ch
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("projection", torch.randn(20, 5))

    def forward(self, x):
        return x @ self.projection


spec = ch.spec(2, 20)
""",
    find=find,
)
