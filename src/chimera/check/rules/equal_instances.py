"""Layers that were drawn to be the same."""

import ast
from collections.abc import Iterable

import torch
from torch import nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.paths.walk import join

_SEEDS = ("manual_seed", "manual_seed_all")


def find(context: Context) -> Iterable[Place]:
    for start in ("__init__", "forward"):
        for path, _, method in context.methods(start):
            for node in ast.walk(method.node):
                if isinstance(node, ast.Call) and _seeds(method.resolve(node.func)):
                    yield Place(
                        path,
                        f"{method.name} of {method.owner.__name__} calls {ast.unparse(node)}: "
                        "every instance, and every other draw after it, is the same",
                        method.file.path,
                        node.lineno,
                        mend="Leave the seed to the caller: ch.build(..., seed=), "
                        "ch.instances(..., seed=).",
                    )
    net = context.experiment.net if context.experiment is not None else context.root
    if net is not None:
        yield from _equal(net)


def _seeds(function: object) -> bool:
    name, home = (str(getattr(function, part, "")) for part in ("__name__", "__module__"))
    return name in _SEEDS and home.split(".")[0] == "torch"


def _equal(net: nn.Module) -> Iterable[Place]:
    """Distinct parameters that are drawn, trained, and equal."""
    groups: dict[tuple[object, ...], list[tuple[str, torch.Tensor]]] = {}
    seen: set[int] = set()
    for path, module in net.named_modules():
        for name, p in module.named_parameters(recurse=False):
            if nn.parameter.is_lazy(p) or p.is_meta or p.dim() < 2 or p.numel() < 8:
                continue
            values = p.detach()
            if id(p) in seen:
                continue
            seen.add(id(p))
            # An identity matrix or a constant is written, not drawn.
            numbers = torch.view_as_real(values) if values.is_complex() else values
            if 2 * numbers.unique().numel() > numbers.numel():
                start = float(numbers.flatten()[0])
                key = (p.shape, p.dtype, float(numbers.double().sum()), start)
                groups.setdefault(key, []).append((join(path, name), p))
    said: set[str] = set()
    for same in groups.values():
        first = same[0][1]
        names = [n for n, p in same if torch.equal(p.detach(), first.detach())]
        # A frozen copy is a teacher, or an average of its original.
        if len(names) < 2 or not all(p.requires_grad for _, p in same):
            continue
        owner = names[1].rpartition(".")[0]
        within = owner.rpartition(".")[0]
        if within and within in said:
            continue
        said.add(within)
        listed = ", ".join(f"`{name}`" for name in names[:4])
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        yield Place(owner, f"{listed}{more} are parameters of their own with equal numbers")


RULE = Rule(
    name="equal-instances",
    severity="warning",
    what="Trained weights of several layers that are equal, number for number, as copy.deepcopy "
    "makes them; a seed that a constructor or forward sets.",
    why="Layers, heads or members that start equal and see the same stay equal; a tie that "
    "deepcopy took apart is trained as two. torch's own TransformerEncoder copies its layers so.",
    mend="Make each instance anew: [Block() for _ in range(n)], ch.Repeat(Block, n), or call "
    "reset_parameters() on each.",
    before="""\
import copy

from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.Linear(20, 20)
        self.layers = nn.Sequential(*[copy.deepcopy(layer) for _ in range(3)])

    def forward(self, x):
        return self.layers(x)


subject = Net()
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(20, 20) for _ in range(3)])

    def forward(self, x):
        return self.layers(x)


subject = Net()
""",
    find=find,
)
