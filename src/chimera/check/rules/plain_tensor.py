"""Tensors as plain attributes, which do not move and are not saved."""

import ast
from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from chimera.check.attributes import held
from chimera.check.context import Context
from chimera.check.rule import Place, Rule


def find(context: Context) -> Iterable[Place]:
    if context.root is None:
        return
    registered = {id(tensor) for tensor in (*context.root.parameters(), *context.root.buffers())}
    for path, module in context.modules:
        state = set(_written_when_run(context, type(module)))
        derived = _recomputed(module)
        for name, words, tensors in held(module, Tensor):
            plain = [
                tensor
                for tensor in tensors
                if id(tensor) not in registered and not isinstance(tensor, nn.Parameter)
            ]
            if not plain or name in state or name in derived:
                continue
            # What was computed from a parameter is the business of parameter-lost.
            if context.fresh and all(tensor.grad_fn is not None for tensor in plain):
                continue
            file, line = context.assigned(type(module), name)
            if isinstance(getattr(module, name, None), Tensor):
                said = f"`{name}` is a tensor {list(plain[0].shape)} in a plain attribute"
                mend = f'Write self.register_buffer("{name}", ...); ch.build does it for you.'
            else:
                said = f"`{name}` ({words}) holds {len(plain)} plain tensor(s)"
                mend = f"Register each tensor of `{name}` as a buffer, under a name of its own."
            # A tensor of one number on the CPU meets tensors of any device.
            scalars = all(tensor.ndim == 0 for tensor in plain)
            yield Place(path, said, file, line, "warning" if scalars else None, mend=mend)

    yield from _of_classes(context, registered)


def _of_classes(context: Context, registered: set[int]) -> Iterator[Place]:
    """Tensors that are attributes of a class."""
    for kind, paths in context.uses.items():
        node = context.sources.of(kind).node
        for name, value in vars(kind).items():
            if not isinstance(value, Tensor) or isinstance(value, nn.Parameter):
                continue
            if id(value) not in registered:
                file = context.sources.of(kind).file
                yield Place(
                    paths[0],
                    f"`{name}` is a tensor {list(value.shape)}, an attribute of the class "
                    f"{kind.__name__}",
                    file.path if file is not None else None,
                    node.lineno if node is not None else None,
                    "warning" if value.ndim == 0 else None,
                    mend=f'Write self.register_buffer("{name}", ...) in the constructor.',
                )


def _written_when_run(context: Context, kind: type) -> Iterator[str]:
    """The attributes that a forward call sets: they are state, not constants."""
    for method in context.reached(kind, "forward"):
        for node in ast.walk(method.node):
            if isinstance(node, ast.expr):
                yield from method.sets(node)


def _recomputed(module: nn.Module) -> set[str]:
    """The attributes that torch's hooks compute anew before each call, from parameters named after
    them: those of weight norm, spectral norm and pruning in ``torch.nn.utils``."""
    own = {name for name, _ in module.named_parameters(recurse=False)}
    endings = ("_orig", "_g")
    return {name.removesuffix(end) for name in own for end in endings if name.endswith(end)}


RULE = Rule(
    name="plain-tensor",
    severity="error",
    what="A tensor that is kept as a plain attribute, or in a plain container, of a module.",
    why=".to() and .double() leave it behind, and state_dict() does not hold it: a loaded network "
    "computes something else, silently.",
    mend="Register it as a buffer, or as a parameter if it is to be trained.",
    before="""\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.rand(20)

    def forward(self, x):
        return x * self.scale
""",
    after="""\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.rand(20))

    def forward(self, x):
        return x * self.scale
""",
    find=find,
)
