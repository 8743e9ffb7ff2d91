import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch
from chimera.stack.rules import linear, table
from chimera.verify.measure import Runs, relative
from chimera.verify.verify import VerificationError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))))


@pytest.fixture
def stack():
    return ch.Stack(ch.instances(Net, 4), seed=2)


def _faults():
    def other_weight(module, x):
        return F.linear(x, module.weight.flip(0), module.bias)

    def no_bias(module, x):
        return F.linear(x, module.weight)

    def off_by_little(module, x):
        return F.linear(x, module.weight, module.bias) * (1 + 1e-4)

    def no_gradient(module, x):
        return F.linear(x, module.weight.detach(), module.bias)

    def no_input_gradient(module, x):
        return F.linear(x.detach(), module.weight, module.bias)

    return [other_weight, no_bias, off_by_little, no_gradient, no_input_gradient]


@pytest.mark.parametrize("fault", _faults(), ids=lambda fault: fault.__name__)
def test_a_wrong_rule_is_caught(monkeypatch, fault):
    monkeypatch.setitem(table.RULES, nn.Linear, table.Rule("wrong", fault))
    stack = ch.Stack(ch.instances(Net, 4), seed=2)
    result = ch.verify(stack, torch.randn(16, 6))
    assert not result.ok
    assert "WRONG" in str(result)
    with pytest.raises(VerificationError, match="WRONG"):
        ch.verify(stack, torch.randn(16, 6), raises=True)


def test_a_neighbours_weight_is_caught_and_the_member_named(monkeypatch):
    true = linear._Product.forward

    def crossed(ctx, x, w, b):
        w = w.clone()
        w[2] = w[1]
        return true(ctx, x, w, b)

    monkeypatch.setattr(linear._Product, "forward", staticmethod(crossed))
    result = ch.verify(ch.Stack(ch.instances(Net, 4)), torch.randn(16, 6))
    assert {one.member for one in result.wrong if one.kind == "output"} == {2}


def test_a_right_stack_passes_and_stays_as_it_is(stack):
    before = {name: tensor.clone() for name, tensor in stack.state_dict().items()}
    x, y = torch.randn(4, 16, 6), torch.randint(0, 3, (4, 16))
    optimizer = ch.optim.AdamW(stack, lr=[1e-3, 1e-2, 1e-2, 0.1], betas=(0.8, 0.9))
    result = ch.verify(
        stack,
        ch.each(x),
        ch.each(y),
        loss=F.cross_entropy,
        optimizer=optimizer,
        steps=20,
        raises=True,
    )
    kinds = {one.kind for one in result.comparisons}
    assert kinds == {
        "output",
        "input gradient",
        "gradient",
        "buffer",
        "loss",
        "trained parameter",
        "trained buffer",
    }
    assert optimizer.steps == 0
    assert stack.calls == 0
    for name, tensor in stack.state_dict().items():
        assert torch.equal(before[name], tensor)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_training_is_compared_with_torch_optim(stack, kind):
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    optimizer = getattr(ch.optim, kind)(stack, lr=0.01, weight_decay=0.1)
    assert ch.verify(stack, x, y, loss=F.cross_entropy, optimizer=optimizer, steps=5).ok


def test_a_wrong_optimizer_is_caught(stack, monkeypatch):
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    optimizer = ch.optim.SGD(stack, lr=0.01)
    true = ch.optim.SGD.step

    def twice(self):
        true(self)
        self.steps -= 1
        true(self)

    monkeypatch.setattr(ch.optim.SGD, "step", twice)
    result = ch.verify(stack, x, y, loss=F.cross_entropy, optimizer=optimizer, steps=2)
    assert any(one.kind == "trained parameter" for one in result.wrong)


def test_float64_evaluation_mode_and_groups():
    nets = [Net(), nn.Linear(6, 3), Net(), nn.Sequential(nn.Linear(6, 3), nn.Tanh())]
    stack = ch.Stack(nets).double().eval()
    assert ch.verify(stack, torch.randn(5, 6, dtype=torch.float64), raises=True).ok


def test_outputs_of_different_shapes_and_kinds():
    class Two(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = nn.Linear(6, width)

        def forward(self, x):
            y = self.layer(x)
            return {"y": y, "best": y.argmax(-1), "width": y.shape[-1]}

    stack = ch.Stack([Two(3), Two(4), Two(3)])
    result = ch.verify(stack, torch.randn(5, 6), raises=True)
    assert any(one.name.startswith("output['y']") for one in result.comparisons)


def test_a_chaotic_network_is_measured_by_its_own_chaos():
    torch.manual_seed(0)
    nets = [
        nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        for _ in range(8)
    ]
    assert ch.verify(ch.Stack(nets), torch.randn(3, 6), raises=True).ok


def test_nan_counts_as_wrong_unless_the_loop_has_it_too():
    one = torch.tensor([[1.0, float("nan")]], dtype=torch.float64)
    other = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    assert not Runs(one, other, other, other, 1e-7).compare("output", "o", by_member=True).ok
    assert Runs(one, one, one, one, 1e-7).compare("output", "o", by_member=True).ok


def test_mistakes_are_told(stack):
    x = torch.randn(4, 6)
    with pytest.raises(TypeError, match=r"must be a ch\.Stack"):
        ch.verify(Net(), x)
    with pytest.raises(TypeError, match="steps needs loss= and optimizer="):
        ch.verify(stack, x, steps=2)
    with pytest.raises(TypeError, match="targets are for a loss"):
        ch.verify(stack, x, torch.zeros(4))


def test_an_imaginary_part_counts():
    one, other = torch.tensor([[1 + 2j]]), torch.tensor([[1 + 3j]])
    assert not relative("trained buffer", "phase", one, other, 1e-6).ok
    assert relative("trained buffer", "phase", one, one.clone(), 1e-6).ok


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_a_gradient_without_the_conjugate_is_caught(monkeypatch, dtype):
    modules = ch.instances(lambda: nn.Linear(6, 3, dtype=dtype), 4)
    x = torch.randn(5, 6, dtype=dtype)
    assert ch.verify(ch.Stack(modules), x).ok
    true = linear._Product.backward

    def wrong(ctx, g):
        return tuple(None if one is None else one.conj() for one in true(ctx, g.conj()))

    monkeypatch.setattr(linear._Product, "backward", staticmethod(wrong))
    found = ch.verify(ch.Stack(modules), x).wrong
    assert {one.kind for one in found} == {"input gradient", "gradient"}


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"steps": -2}, ValueError, "steps must be 0 or more, got -2"),
        ({"steps": 1.5}, TypeError, "steps must be an int, got 1.5"),
        ({"loss": "mse"}, TypeError, "loss must be a function"),
        ({"loss": nn.CrossEntropyLoss}, TypeError, "loss must be a function"),
        ({"optimizer": ch.optim.Adam}, TypeError, "optimizer must be a ch.optim optimizer"),
        ({"optimizer": torch.optim.Adam}, TypeError, "optimizer must be a ch.optim optimizer"),
    ],
)
def test_a_wrong_argument_is_named(stack, wrong, error, said):
    given = {"loss": F.cross_entropy, "steps": 1, "optimizer": ch.optim.SGD(stack), **wrong}
    with pytest.raises(error, match=said):
        ch.verify(stack, torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1]), **given)


def test_a_packed_sequence():
    packed = nn.utils.rnn.pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    assert ch.verify(ch.Stack([nn.GRU(3, 4) for _ in range(3)]), packed).ok


class Clips(nn.Module):
    """Keeps its weights small by giving them other memory, as critics do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.layer.weight.data = self.layer.weight.data.clamp(-0.1, 0.1)
        return self.layer(x)


def test_what_forward_does_to_parameters_is_compared(monkeypatch):
    from chimera.stack.moved import Moved

    stack = ch.Stack(ch.instances(Clips, 3))
    result = ch.verify(stack, torch.randn(5, 6))
    assert result.ok
    assert [one.name for one in result.comparisons if one.kind == "parameter"] == ["layer.weight"]
    monkeypatch.setattr(Moved, "settle", lambda _: None)
    assert [one.kind for one in ch.verify(stack, torch.randn(5, 6)).wrong] == ["parameter"]
