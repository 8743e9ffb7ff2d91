"""Operations of torch's own tests, called by members: outputs and gradients are the loop's.

Where torch's batching of one is wrong without an error, ``stack/rules/misbatched.py`` has it; the
long test here is what finds such an operation.
"""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import chimera as ch
from chimera.paths.nest import flatten, map_leaves
from chimera.stack.rules.misbatched import MISBATCHED, goes_wrong

MEMBERS = 3
MOST = 60  # samples of one operation
LARGEST = 20_000  # numbers in one input
# What torch leaves in memory, or draws beside its generators.
UNKNOWN = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")


def _padded(table, indices):
    return F.embedding(indices, table, padding_idx=1)


def _scattered(rows, row):
    return torch.select_scatter(rows, row, 1, 2)


def _rolled(number, other):
    return torch.roll(number, 1) * other


WRONG = {
    "roll": (_rolled, torch.randn(3), torch.randn(3)),
    "embedding": (_padded, torch.randn(3, 5, 4), torch.tensor([[1, 2], [1, 0], [4, 1]])),
    "select_scatter": (_scattered, torch.randn(3, 5, 4), torch.randn(3, 5)),
}


@pytest.mark.parametrize("name", WRONG)
def test_torch_still_differentiates_these_wrongly(name):
    """Else what stands in their place can go."""
    function, first, second = WRONG[name]
    found = []
    for batched in (True, False):
        given = [t.clone().requires_grad_(t.is_floating_point()) for t in (first, second)]
        if batched:
            output = torch.vmap(function)(*given)
        else:
            output = torch.stack([function(*row) for row in zip(*given, strict=True)])
        output.pow(2).sum().backward()
        found.append([output.detach()] + [t.grad for t in given if t.requires_grad])
    assert any(not torch.allclose(a, b) for a, b in zip(*found, strict=True))


def test_calls_that_go_right_are_left_alone():
    table, indices = torch.randn(5, 4), torch.tensor([1, 2])
    assert not goes_wrong(F.embedding, (indices, table), {})
    assert goes_wrong(F.embedding, (indices, table, 1), {})
    assert goes_wrong(F.embedding, (indices, table), {"padding_idx": 1})
    assert not goes_wrong(torch.relu, (table,), {})
    assert {F.embedding, torch.select_scatter} <= MISBATCHED.keys()


class Padded(nn.Embedding):
    """A class of the user's own, for which there is no rule."""


def test_a_subclass_of_embedding_leaves_its_padding_out():
    modules = [Padded(6, 4, padding_idx=2) for _ in range(MEMBERS)]
    indices = torch.tensor([[0, 2, 2], [2, 1, 5], [2, 3, 2]])
    stack = ch.Stack(modules)
    ch.verify(stack, ch.each(indices), raises=True)
    stack(ch.each(indices)).sum().backward()
    (weight,) = stack.parameters()
    assert not weight.grad[:, 2].any()
    assert not ch.explain(stack).alone


class Mark:
    """Where a tensor stands among the arguments of a sample."""

    def __init__(self, place):
        self.place = place

    def __eq__(self, other):
        return isinstance(other, Mark) and other.place == self.place

    def __hash__(self):
        return self.place

    def __deepcopy__(self, memo):
        return self


class Calls(nn.Module):
    """Calls an operation; the first floating tensor is scaled by a parameter."""

    def __init__(self, operation, arguments):
        super().__init__()
        self.scale = nn.Parameter(torch.rand((), dtype=torch.float64) * 0.1 + 0.9)
        self.operation, self.arguments = operation, arguments

    def forward(self, *tensors):
        scaled = [
            t * self.scale if not i and t.is_floating_point() else t for i, t in enumerate(tensors)
        ]
        args, kwargs = map_leaves(
            lambda leaf: scaled[leaf.place] if isinstance(leaf, Mark) else leaf, self.arguments
        )
        return self.operation(*args, **kwargs)


def _operations():
    pytest.importorskip("expecttest")  # torch's tests of operations import it
    from torch.testing._internal.common_methods_invocations import op_db

    return op_db


def _leaf(tensor: Tensor, place: int) -> Tensor:
    tensor = tensor.detach().clone()
    differs = tensor.is_floating_point() or tensor.is_complex()
    return tensor * (1 + 0.07 * place) if differs else tensor


def _takes(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _direct(outputs) -> Tensor | None:
    """A number in which every differentiable entry of an output has a part."""
    total = None
    for leaf in outputs:
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            real = torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf
            way = torch.arange(real.numel(), dtype=torch.float64).mul(0.7).cos().view(real.shape)
            total = (real * way).sum() + (0 if total is None else total)
    return total


def differs(operation, sample, apart) -> str | None:
    """In what a sample differs from the loop; None where in nothing, or where torch refuses."""
    tensors: list[Tensor] = []

    def mark(leaf):
        if not isinstance(leaf, Tensor):
            return leaf
        tensors.append(leaf)
        return Mark(len(tensors) - 1)

    arguments = map_leaves(mark, ([sample.input, *sample.args], dict(sample.kwargs)))
    dense = all(t.layout == torch.strided and t.numel() <= LARGEST for t in tensors)
    if not tensors or not dense or sample.kwargs.get("sparse"):
        return None  # sparse gradients reach parameters, not what was computed from them
    modules = [Calls(operation, arguments) for _ in range(MEMBERS)]
    rows = [[_leaf(t, i).requires_grad_(_takes(t)) for t in tensors] for i in range(MEMBERS)]
    try:
        alone = []
        for i, module in enumerate(modules):
            with ch.randomness(seed=0, member=i):
                output = module(*[t * 1 if _takes(t) else t.clone() for t in rows[i]])
            alone.append(flatten(output)[0])
        values = [_direct(output) for output in alone]
        if values[0] is not None:
            torch.stack(values).sum().backward()
    except Exception:  # noqa: BLE001 - what torch refuses alone says nothing of a stack
        return None
    stack = ch.Stack(modules)
    given = [
        torch.stack([row[j].detach() for row in rows]).requires_grad_(_takes(t))
        for j, t in enumerate(tensors)
    ]
    output = stack(*[ch.each(t * 1 if _takes(t) else t.clone()) for t in given])
    if isinstance(output, list) and len(output) == MEMBERS and len(alone[0]) == 1:
        output = [leaf for member in output for leaf in flatten(member)[0]]
        mine = [[leaf] for leaf in output]
    elif isinstance(output, list) and any(map(isinstance, output, [list] * len(output))):
        return None  # shapes that differ between members, told in a form of its own
    else:
        leaves = flatten(output)[0]
        mine = [[x[i] if isinstance(x, Tensor) else x for x in leaves] for i in range(MEMBERS)]
    for ours, theirs in zip(mine, alone, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            if isinstance(b, Tensor) and apart(a.resolve_conj(), b.resolve_conj()) > 1e-7:
                return "an output"
    if values[0] is None:
        return None
    torch.stack([_direct(each) for each in mine]).sum().backward()
    for j, tensor in enumerate(given):
        if tensor.requires_grad:
            none = torch.zeros_like(rows[0][j])
            its = torch.stack([none if row[j].grad is None else row[j].grad for row in rows])
            own = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            if apart(own, its) > 1e-6:
                return f"the gradient of input {j}"
    return None


@pytest.mark.long
@pytest.mark.parametrize("part", range(24))
def test_every_operation_of_torchs_own_tests(part, apart):
    wrong = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for operation in _operations()[part::24]:
            if operation.name in UNKNOWN or not operation.supports_dtype(torch.float64, "cpu"):
                continue
            torch.manual_seed(0)
            for sample in list(operation.sample_inputs("cpu", torch.float64))[:MOST]:
                found = differs(operation.op, sample, apart)
                if found is not None:
                    wrong[operation.name] = found
    assert not wrong
