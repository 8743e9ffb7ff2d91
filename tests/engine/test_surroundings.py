"""Python's values around a recorded step: a change of one is seen at the next step."""

import copy
import functools
import itertools
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import chimera as ch
from chimera.engine.program import Uncapturable
from chimera.engine.surroundings import MOST_STATES, around

WEIGHT = {"w": 0.5}
SCALE = 0.5
CONFIG = types.SimpleNamespace(gain=1.0)
X, Y = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _as_recorded(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    monkeypatch.setattr(Net, "factor", 1.0)
    monkeypatch.setitem(WEIGHT, "w", 0.5)
    monkeypatch.setattr(CONFIG, "gain", 1.0)
    monkeypatch.setitem(globals(), "SCALE", 0.5)


class Net(nn.Module):
    factor = 1.0

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.0)
        self.last = nn.Sequential(nn.Linear(4, 4), nn.GELU())
        self.temperature, self.settings, self.act = 1.0, {"a": [1.0]}, torch.tanh
        self.double().register_buffer("held", torch.ones(4, dtype=torch.float64))

    def forward(self, x):
        h = self.act(self.first(x) / self.temperature) * self.settings["a"][0]
        return self.last(self.norm(self.drop(h))) * self.scaled() + self.held

    def scaled(self):
        return self.factor * scale_of()


def scale_of():
    return SCALE * CONFIG.gain


class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.shift = 1.0, torch.ones(4, dtype=torch.float64)
        self.square = nn.MSELoss()

    def forward(self, output, target):
        penalty = WEIGHT["w"] * output.square().mean()
        return self.square(output * self.weight + self.shift, target) + penalty


def set_scale(value):
    globals()["SCALE"] = value


CHANGES = {
    "a global": lambda net, loss: set_scale(2.0),
    "a global's entry": lambda net, loss: WEIGHT.update(w=3.0),
    "a global's attribute": lambda net, loss: setattr(CONFIG, "gain", 3.0),
    "an attribute": lambda net, loss: setattr(net, "temperature", 3.0),
    "a type": lambda net, loss: setattr(net, "temperature", torch.tensor(2)),
    "in containers": lambda net, loss: net.settings["a"].__setitem__(0, 3.0),
    "a function": lambda net, loss: setattr(net, "act", torch.relu),
    "a module": lambda net, loss: net.last.__setitem__(1, nn.ReLU()),
    "dropout": lambda net, loss: setattr(net.drop, "p", 0.5),
    "momentum": lambda net, loss: setattr(net.norm, "momentum", 0.9),
    "eps": lambda net, loss: setattr(net.norm, "eps", 1.0),
    "a class": lambda net, loss: setattr(Net, "factor", 3.0),
    "over a class": lambda net, loss: setattr(net, "factor", 3.0),
    "a method": lambda net, loss: setattr(net, "scaled", lambda: 3.0),
    "a hook": lambda net, loss: net.first.register_forward_hook(lambda m, a, out: out * 2),
    "of the loss": lambda net, loss: setattr(loss, "weight", 3.0),
    "reduction": lambda net, loss: setattr(loss.square, "reduction", "sum"),
    "a tensor": lambda net, loss: setattr(loss, "shift", torch.zeros(4, dtype=torch.float64)),
    "strides": lambda net, loss: setattr(
        loss.shift, "data", torch.arange(8, dtype=torch.float64)[::2]
    ),
    "a gradient": lambda net, loss: loss.shift.requires_grad_(),
    "the mode": lambda net, loss: net.norm.eval(),
}


def thrice(parameter):
    parameter.grad.mul_(3)


OF_TENSORS = {
    "a hook of a parameter": lambda net, loss: net.first.weight.register_hook(lambda g: g * 2),
    "a hook after": lambda net, loss: net.first.weight.register_post_accumulate_grad_hook(thrice),
    "a replaced buffer": lambda net, loss: setattr(net, "held", net.held.clone() * 3),
}


def run(kind, engine, change, steps=4):
    """What comes before and after a change."""
    for reset in (lambda: set_scale(0.5), lambda: WEIGHT.update(w=0.5)):
        reset()
    CONFIG.gain = Net.factor = 1.0
    torch.manual_seed(0)
    net, loss = Net(), Loss()
    if kind == "network":
        step = ch.train_step(net, loss, torch.optim.SGD(net.parameters(), lr=0.1), engine=engine)
    elif kind == "stack":
        stack = ch.Stack([net, copy.deepcopy(net)])
        (group, _), *_ = stack.parts()
        net = group.template
        step = ch.train_step(stack, loss, ch.optim.SGD(stack, lr=0.1), engine=engine)
    else:
        call = ch.infer(net, engine=engine)
        step = lambda x, y: call(x)  # noqa: E731
    torch.manual_seed(1)
    outputs = [step(X, Y) for _ in range(steps)]
    recorded = "is compiled" in str(ch.explain(call if kind == "infer" else step))
    change(net, loss)
    return torch.stack(outputs + [step(X, Y) for _ in range(steps)]), recorded, loss


@pytest.mark.filterwarnings("ignore:the (step|call) runs eagerly")
@pytest.mark.parametrize("kind", ["network", "stack", "infer"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(kind, change):
    expected, _, _ = run(kind, "eager", CHANGES[change])
    found, recorded, loss = run(kind, "compiled", CHANGES[change])
    assert recorded
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    if change == "a gradient" and kind != "infer":
        assert loss.shift.grad is not None


@pytest.mark.filterwarnings("ignore:the (step|call) runs eagerly")
@pytest.mark.parametrize("kind", ["network", "infer"])
@pytest.mark.parametrize("change", OF_TENSORS)
def test_a_change_of_a_tensor_is_seen(kind, change):
    expected, _, _ = run(kind, "eager", OF_TENSORS[change])
    found, recorded, _ = run(kind, "compiled", OF_TENSORS[change])
    assert recorded
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_hook_of_a_stacked_parameter_is_seen():
    found = []
    for engine in ("eager", "compiled"):
        stack = ch.Stack([nn.Linear(4, 4).double() for _ in range(3)])
        for i, parameter in enumerate(stack.parameters()):
            nn.init.constant_(parameter, 0.1 * (1 + i))
        step = ch.train_step(stack, F.mse_loss, ch.optim.SGD(stack, lr=0.1), engine=engine)
        losses = [step(X, Y) for _ in range(4)]
        next(iter(stack.parameters())).register_hook(lambda grad: grad * 3)
        if engine == "compiled":
            with pytest.warns(ch.ChimeraWarning, match="hooks of parameters"):
                losses += [step(X, Y) for _ in range(4)]
        else:
            losses += [step(X, Y) for _ in range(4)]
        found.append(torch.stack(losses))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.sampled_from([name for name in CHANGES if name != "a gradient"])),
        min_size=1, max_size=6,
    ),
    kind=st.sampled_from(["network", "stack", "infer"]),
    waits=st.lists(st.integers(1, 4), min_size=6, max_size=6),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:the (step|call) runs eagerly")
def test_whatever_changes_between_steps_it_is_as_eager(changes, kind, waits):
    found = []
    for engine in ("eager", "compiled"):
        turn = iter(zip(changes, waits, strict=False))

        def several(net, loss, turn=turn):
            for (name,), _ in turn:
                CHANGES[name](net, loss)

        found.append(run(kind, engine, several, steps=waits[0] + 3)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


def annealed(engine, values, **settings):
    weight = {"w": 0.0}

    def loss(output, target):
        return F.mse_loss(output, target) + weight["w"] * output.square().mean()

    torch.manual_seed(0)
    net = nn.Linear(4, 4).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    step = ch.train_step(net, loss, optimizer, engine=engine, **settings)
    losses = []
    for value in values:
        weight["w"] = value
        losses.append(step(X, Y))
    return torch.stack(losses), step


def test_what_changes_at_every_step_is_left_to_eager_and_told():
    values = [0.0] * 4 + [0.1 * i for i in range(12)]
    expected, _ = annealed("eager", values)
    with pytest.warns(ch.ChimeraWarning, match=r"Python's values for good, and weight\['w'\]"):
        found, step = annealed("compiled", values)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert len(list(step._single.kinds)) == MOST_STATES + 1
    assert "weight['w'] changed" in str(ch.explain(step))
    assert step._single.kinds.surroundings._states == []  # what was seen is not kept alive


def test_a_value_that_comes_back_finds_its_recording():
    _, step = annealed("compiled", [0.0] * 4 + [1.0] * 4 + [0.0, 1.0] * 6)
    assert [kind.choice for kind in step._single.kinds] == ["compiled"] * 2
    assert step.settled


def test_an_equal_number_is_the_same():
    _, step = annealed("compiled", [1e-3 * 7 for _ in range(8)])
    assert len(list(step._single.kinds)) == 1


def test_auto_does_not_compile_for_a_value_that_changed_once():
    expected, _ = annealed("eager", [0.0] * 2 + [1.0] * 6)
    found, step = annealed("auto", [0.0] * 2 + [1.0] * 6, steps=10**7)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert sorted(kind.choice for kind in step._single.kinds) == ["compiled", "eager"]


def fitted(engine, **settings):
    weight = {"w": 0.0}

    def loss(output, target):
        return F.cross_entropy(output, target) + weight["w"] * output.square().mean()

    def anneal(record):
        weight["w"] = min(record["epoch"] // 3, 2) / 2

    x = torch.randn(60, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = ch.data(x, (x[:, 0] > x[:, 1]).long())
    nets = ch.instances(nn.Linear, 3, 4, 2, seed=0)
    return ch.fit(
        [net.double() for net in nets], data, epochs=8, loss=loss, progress=anneal, engine=engine,
        **settings,
    )  # fmt: skip


def test_a_run_whose_progress_anneals_is_as_eager():
    expected, found = fitted("eager"), fitted("compiled")
    for row, other in zip(expected.table, found.table, strict=True):
        assert row["test_loss"] == pytest.approx(other["test_loss"], rel=1e-9)


def test_a_run_that_goes_on_counts_the_changes_before():
    values = [0.0] * 4
    weight = {"w": 0.0}

    def loss(output, target):
        return F.mse_loss(output, target) * (1 + weight["w"])

    def step_of():
        stack = ch.Stack([nn.Linear(4, 4).double() for _ in range(2)])
        return ch.train_step(stack, loss, ch.optim.SGD(stack, lr=0.1), engine="compiled")

    step = step_of()
    for value in [*values, *[1.0] * 4, *[2.0] * 4]:
        weight["w"] = value
        step(X, Y)
    other = step_of()
    other.prefer(step.choices)
    other(X, Y)
    assert other._eager.surroundings.count == step._eager.surroundings.count == 3


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, output, target):
        self.calls += 1
        return F.mse_loss(output, target) * (1 + self.calls % 3)


class Listing(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, output, target):
        self.seen.append(output.detach())
        return F.mse_loss(output, target)


class Following(nn.Module):
    """A running mean of the loss, changed in place or made anew."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))

    def forward(self, output, target):
        loss = F.mse_loss(output, target)
        if self.in_place:
            self.mean.mul_(0.9).add_(loss.detach(), alpha=0.1)
        else:
            self.mean = self.mean * 0.9 + loss.detach() * 0.1
        return loss / (1 + self.mean)


class Normalizing(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4).double().requires_grad_(False)

    def forward(self, output, target):
        return F.mse_loss(self.norm(output), target)


class Iterating(nn.Module):
    def __init__(self):
        super().__init__()
        self.numbers = itertools.count(1)

    def forward(self, output, target):
        return F.mse_loss(output, target) * next(self.numbers)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, output, target):
        noise = torch.randn(4, generator=self.generator, dtype=torch.float64)
        return F.mse_loss(output + noise, target)


class Growing:
    """No module: an object of a user's class."""

    __slots__ = ("factor",)

    def __init__(self):
        self.factor = 1.0

    def __call__(self, output, target):
        self.factor *= 1.1
        return F.mse_loss(output, target) * self.factor


def in_closure():
    calls = 0

    def loss(output, target):
        nonlocal calls
        calls += 1
        return F.mse_loss(output, target) * calls

    return loss


class Teaching(nn.Module):
    """Follows itself: a frozen copy is moved in forward."""

    def __init__(self):
        super().__init__()
        self.own = nn.Linear(4, 4)
        self.teacher = copy.deepcopy(self.own).requires_grad_(False)

    def forward(self, x):
        with torch.no_grad():
            pairs = zip(self.teacher.parameters(), self.own.parameters(), strict=True)
            for mine, other in pairs:
                mine.lerp_(other, 0.1)
        return self.own(x) - self.teacher(x)


class Shrinking(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.Linear(4, 4)

    def forward(self, x):
        with torch.no_grad():
            self.own.weight.mul_(0.9)
        return self.own(x)


class Adding(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.Linear(4, 4)

    def forward(self, x):
        x += 1
        return self.own(x)


WRITERS = {
    "a number": (nn.Linear, Counting, r"writes state \(loss.calls\)"),
    "a list": (nn.Linear, Listing, r"writes state \(loss.seen\)"),
    "a buffer in place": (nn.Linear, lambda: Following(True), "outside of the network in place"),
    "a buffer": (nn.Linear, lambda: Following(False), r"writes state \(loss.mean"),
    "statistics": (nn.Linear, Normalizing, "outside of the network in place"),
    "an iterator": (nn.Linear, Iterating, "loss.numbers is a count"),
    "a generator": (nn.Linear, Noisy, "loss.generator is a Generator"),
    "a slot": (nn.Linear, Growing, r"writes state \(loss.factor\)"),
    "a variable": (nn.Linear, in_closure, r"writes state \(calls\)"),
    "a frozen copy": (lambda *_: Teaching(), lambda: F.mse_loss, "changes parameters in place"),
    "parameters": (lambda *_: Shrinking(), lambda: F.mse_loss, "changes parameters in place"),
    "its input": (lambda *_: Adding(), lambda: F.mse_loss, "changes its inputs in place"),
}


@pytest.mark.parametrize("case", WRITERS)
def test_a_recording_leaves_no_trace_of_what_a_step_writes(case):
    factory, make, reason = WRITERS[case]
    found = []
    for engine in ("eager", "compiled"):
        torch.manual_seed(0)
        net, loss, x = factory(4, 4).double(), make(), X.clone()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        step = ch.train_step(net, loss, optimizer, engine=engine)
        if engine == "eager":
            losses = [step(x, Y) for _ in range(7)]
        else:
            with pytest.warns(ch.ChimeraWarning, match=reason):
                losses = [step(x, Y) for _ in range(7)]
            assert step.settled
        held = loss.state_dict().values() if isinstance(loss, nn.Module) else ()
        seen = loss.seen if isinstance(loss, Listing) else ()
        found.append([torch.stack(losses), *net.state_dict().values(), x, *held, *seen])
    assert all(map(torch.equal, *found))


def test_an_input_changed_in_place_is_changed_once_by_inference():
    net = Adding().double()
    call = ch.infer(net, engine="compiled")
    for turn in range(5):
        x = torch.zeros(6, 4, dtype=torch.float64)
        if turn == 2:
            with pytest.warns(ch.ChimeraWarning, match="changes its inputs in place"):
                call(x)
        else:
            call(x)
        assert torch.equal(x, torch.ones_like(x))


@pytest.mark.parametrize("factory", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_networks_are_recorded(factory):
    net = factory(4, 3).double()
    call = ch.infer(net, engine="compiled")
    for _ in range(5):
        torch.testing.assert_close(call(X)[0], net(X)[0])
    assert "is compiled" in ch.explain(call).notes[-1]
    listed = [t for name in ("weight_ih_l0", "bias_hh_l0") for t in [getattr(net, name)]]
    assert all(any(mine is one for one in net._flat_weights) for mine in listed)


def test_a_replaced_network_of_the_loss_is_seen():
    found = []
    for engine in ("eager", "compiled"):
        torch.manual_seed(0)
        net = nn.Linear(4, 4).double()
        box = {"target": copy.deepcopy(net)}
        loss = functools.partial(lambda box, output, x: F.mse_loss(output, box["target"](x)), box)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for parameter in box["target"].parameters():
            parameter.requires_grad_(False)
        step = ch.train_step(net, loss, optimizer, engine=engine)
        losses = []
        for turn in range(12):
            if turn in (4, 8):
                box["target"] = copy.deepcopy(box["target"])
                with torch.no_grad():
                    box["target"].weight.add_(1.0)
            losses.append(step(X, X))
        found.append(torch.stack(losses))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)
    assert len(list(step._single.kinds)) == 3


def test_hooks_of_all_modules_are_left_to_eager():
    found = []
    for engine in ("eager", "compiled"):
        torch.manual_seed(0)
        net = nn.Linear(4, 4).double()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        step = ch.train_step(net, F.mse_loss, optimizer, engine=engine)
        losses = [step(X, Y) for _ in range(4)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ch.ChimeraWarning)
            handle = nn.modules.module.register_module_forward_hook(lambda m, a, out: out * 2)
            try:
                losses += [step(X, Y) for _ in range(4)]
            finally:
                handle.remove()
        found.append(torch.stack(losses))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)
    assert "hooks of all modules" in str(ch.explain(step))


class How:
    gain = 1.0


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.Linear(4, 4)

    def forward(self, x, how):
        return self.own(x) * how.gain


def test_an_object_among_the_arguments_is_left_to_eager():
    how = How()
    net = Scaled().double()
    call = ch.infer(net, engine="compiled")
    for turn in range(6):
        how.gain = float(turn)
        if turn == 2:
            with pytest.warns(ch.ChimeraWarning, match="an argument is a How"):
                assert torch.equal(call(X, how), net(X, how))
        else:
            assert torch.equal(call(X, how), net(X, how))


class Difficult:
    """Says what it holds by Python that fails."""

    ready = True

    @property
    def __dict__(self):
        if self.ready:
            return {}
        raise RuntimeError("planted")


def test_what_cannot_be_looked_at_is_left_to_eager_and_told(monkeypatch):
    box = {"w": 1.0, "object": Difficult()}
    net = nn.Linear(4, 4).double()
    step = ch.train_step(
        net, lambda out, y: F.mse_loss(out, y) * box["w"],
        torch.optim.SGD(net.parameters(), lr=0.0), engine="compiled",
    )  # fmt: skip
    first = [step(X, Y) for _ in range(4)][-1]
    monkeypatch.setattr(Difficult, "ready", False)
    box["w"] = 2.0
    with pytest.warns(ch.ChimeraWarning, match="cannot be followed .RuntimeError: planted"):
        second = step(X, Y)
    torch.testing.assert_close(second, 2 * first)


def test_what_a_recording_writes_is_put_back():
    box, numbers, names = {"a": 1}, [1, 2], {"x"}

    def loss(output):
        return output * box["a"] + len(numbers) + len(names)

    surroundings = around(nn.Linear(2, 2), {"loss": loss})

    def write():
        with surroundings.untouched(0):
            box["b"], box["a"] = 3, 2
            numbers.append(3)
            names.clear()

    with pytest.raises(Uncapturable, match=r"writes state \(loss|box"):
        write()
    assert (box, numbers, names) == ({"a": 1}, [1, 2], {"x"})


def test_an_error_of_a_recording_passes_and_all_is_put_back():
    box = {"a": 1}
    surroundings = around(nn.Linear(2, 2), {"loss": lambda output: output * box["a"]})

    def fail():
        with surroundings.untouched(0):
            box["a"] = 2
            raise KeyError("planted")

    with pytest.raises(KeyError):
        fail()
    assert box == {"a": 1}
