"""Parameters whose values cannot be meant."""

from collections.abc import Iterable

from torch import nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.paths.walk import join

_WEIGHTED = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)


def find(context: Context) -> Iterable[Place]:
    net = context.experiment.net if context.experiment is not None else context.root
    if net is None:
        return
    gradients = context.experiment.gradients if context.experiment is not None else None
    multiplied = _multiplied(context)

    def stuck() -> set[str]:
        return context.experiment.unmoved if context.experiment is not None else set()

    for path, module in net.named_modules():
        for name, p in module.named_parameters(recurse=False):
            if nn.parameter.is_lazy(p) or p.is_meta or not p.is_floating_point():
                continue
            values, full = p.detach(), join(path, name)
            said = None
            if not values.isfinite().all():
                kind = "NaN" if values.isnan().any() else "infinite numbers"
                yield Place(path, f"`{full}` holds {kind}", severity="error")
                continue
            if values.dim() < 2 or values[0].numel() < 2 or len(values) < 2 or not p.requires_grad:
                continue
            # Elsewhere zero is usual: positions, scales and biases of attention.
            if not isinstance(module, _WEIGHTED) and full not in multiplied:
                continue
            if not values.any():
                gradient = (gradients or {}).get(full)
                if gradient is not None and not gradient.any() and full in stuck():
                    said = f"`{full}` is zero, and so is its gradient: it will stay zero"
            elif bool((values == values.flatten()[0]).all()):
                said = f"every number of `{full}` is {values.flatten()[0].item():g}"
            if said:
                yield Place(path, said)


def _multiplied(context: Context) -> set[str]:
    """The parameters of two axes that a product of matrices takes as they are."""
    tape = context.experiment.training if context.experiment is not None else None
    if tape is None:
        return set()
    return {
        name
        for name, value in tape.state.items()
        if len(value.shape) == 2
        and any(op.name in _PRODUCTS and value in op.inputs[:2] for op in value.readers)
    }


_PRODUCTS = frozenset(("matmul", "__matmul__", "__rmatmul__", "mm", "linear"))


RULE = Rule(
    name="initial-values",
    severity="warning",
    what="Parameters that are NaN or infinite, weights of a layer that are all "
    "the same, and weights of zero whose gradient is zero too. A weight of zero that "
    "learns, as in LoRA or at the end of a residual branch, is right.",
    why="Units with equal weights stay equal: the layer is as wide as one unit.",
    mend="Leave torch's own initialization, or draw: nn.init.kaiming_normal_(weight).",
    before="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)
        nn.init.constant_(self.linear.weight, 0.5)

    def forward(self, x):
        return self.linear(x)


subject = Net()
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)
        nn.init.kaiming_normal_(self.linear.weight)

    def forward(self, x):
        return self.linear(x)


subject = Net()
""",
    find=find,
)
