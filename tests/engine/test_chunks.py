"""Members in chunks: the same step in less memory."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import chimera as ch
from chimera.draws.mode import Key
from chimera.engine import room
from chimera.engine.prediction import few_of, peak, saved
from chimera.engine.trace import recorded
from chimera.stack.each import arguments


class Net(nn.Module):
    def __init__(self, hidden=5):
        super().__init__()
        self.first, self.norm = nn.Linear(6, hidden), nn.BatchNorm1d(hidden)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(hidden, 4)

    def forward(self, x):
        return self.last(self.drop(torch.tanh(self.norm(self.first(x)))))


X = torch.randn(5, 400, 6, dtype=torch.float64)
Y = torch.randint(0, 4, (5, 400))


def nets():
    made = [n.double() for n in (Net(), Net(7), Net(), Net(), Net(7))]
    made[2].first.weight.requires_grad_(False)
    return made


def trained(members, steps=4, **settings):
    stack = ch.Stack(members, seed=3)
    optimizer = ch.optim.AdamW(stack, lr=[1e-3, 1e-2, 3e-2, 1e-2, 1e-3])
    step = ch.train_step(stack, F.cross_entropy, optimizer, clip=0.5, **settings)
    losses = [step(ch.each(X), ch.each(Y)) for _ in range(steps)]
    return stack, torch.stack(losses), step


@pytest.mark.parametrize("memory", [200_000, 300_000, 400_000])
def test_chunks_equal_all_at_once(memory):
    members = nets()
    stack, losses, one = trained(members)
    other, found, step = trained(members, memory=memory)
    assert "chunks" not in str(ch.explain(one))
    assert "members run in" in str(ch.explain(step).notes[-1])
    assert not step.settled  # whether to compile them is open
    torch.testing.assert_close(found, losses, rtol=1e-9, atol=1e-12)
    for name, tensor in stack.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-6, atol=1e-9)


def test_less_memory_means_more_chunks():
    members = nets()
    counts = []
    for memory in (10**9, 400_000, 200_000, 170_000):
        _, _, step = trained(members, steps=1, memory=memory)
        note = ch.explain(step).notes[-1]
        counts.append(int(note.split()[3]) if "members run in" in note else 1)
    assert counts[0] == 1
    assert counts == sorted(counts)
    assert counts[-1] == 5


class Images(nn.Module):
    """Whose activations are large beside its parameters."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        return self.two(torch.tanh(self.one(x))).mean((2, 3))


def of_images(free, monkeypatch):
    """A step that may take ``free`` bytes, and then little more than it must hold."""
    monkeypatch.setattr(room, "FREE", free)
    monkeypatch.setattr(room, "WATCHED_FROM", 0)
    torch.manual_seed(0)
    stack = ch.Stack([Images().double() for _ in range(6)], seed=3)
    step = ch.train_step(stack, F.cross_entropy, ch.optim.Adam(stack, lr=1e-2), engine="eager")
    x = torch.randn(4, 1, 12, 12, dtype=torch.float64)
    losses = torch.stack([step(x, torch.arange(4)) for _ in range(3)])
    return losses, str(ch.explain(step)), step


def test_gradients_of_activations_take_little_beside_what_a_step_must_hold(monkeypatch):
    all_at_once, quiet, _ = of_images(10**9, monkeypatch)
    losses, told, step = of_images(0, monkeypatch)
    assert "chunks" not in quiet
    found = re.search(r"in (\d+) chunks: .* where a step must hold", told)
    assert found is not None, told
    assert 1 < int(found[1]) < 6
    assert next(iter(step.choices.values())).startswith(f"{found[1]} chunks")
    torch.testing.assert_close(losses, all_at_once, rtol=1e-9, atol=1e-12)


def test_what_is_saved_is_what_autograd_keeps():
    stack = ch.Stack([Images() for _ in range(6)])
    step = ch.train_step(stack, F.cross_entropy, ch.optim.SGD(stack, lr=0.0), engine="eager")
    x = ch.each(torch.randn(6, 4, 1, 12, 12))
    given = arguments(((x,), {}, (torch.arange(4),)), {}, 6)
    sizes: dict[int, int] = {}
    known = {t.untyped_storage().data_ptr() for t in (*stack.parameters(), x.value)}

    def keep(tensor):
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in known:
            sizes[memory.data_ptr()] = memory.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        step(x, torch.arange(4))
    few, theirs = few_of(step._eager, given, Key(0, 0))
    assert 6 * saved(few, theirs, Key(0, 0)) == pytest.approx(sum(sizes.values()), rel=0.05)


def test_the_prediction_is_what_lives_at_once():
    def work(x):
        a = x * 2  # 800 bytes, and as many more at each line; a ends with b
        b = a + 1
        c = b * b
        return [c.sum()]

    graph = recorded(work, [torch.randn(100, dtype=torch.float64)])
    assert peak(graph) == 1600


def test_what_is_more_than_tensors_runs_at_once_and_is_told():
    class Asking(Net):
        def forward(self, x):
            return super().forward(x) if x.sum() > -1e9 else x

    stack = ch.Stack([Asking() for _ in range(3)])
    step = ch.train_step(stack, F.cross_entropy, ch.optim.SGD(stack), memory=60_000)
    with pytest.warns(ch.ChimeraWarning, match="do not run in chunks: members ask tensors"):
        losses = step(ch.each(X[:3].float()), Y[0])
    assert losses.shape == (3,)
    assert "do not run in chunks" in str(ch.explain(step))


def test_mistakes_are_told():
    stack = ch.Stack([Net() for _ in range(3)])
    optimizer = ch.optim.SGD(stack)
    with pytest.raises(TypeError, match="memory is a number of bytes"):
        ch.train_step(stack, F.cross_entropy, optimizer, memory=1e9)
    with pytest.raises(ValueError, match="memory=100 bytes do not hold parameters"):
        ch.train_step(stack, F.cross_entropy, optimizer, memory=100)(X[0].float(), Y[0])
    network = Net()
    alone = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="one network does not run in chunks"):
        ch.train_step(network, F.cross_entropy, alone, memory=10**9)


def test_a_step_that_goes_on_runs_in_as_many_chunks_as_before():
    members = nets()
    _, _, first = trained(members, steps=1, memory=200_000)
    ((name, choice),) = first.choices.items()
    assert name == "5x400x6, 5x400"
    assert choice.endswith(" chunks")
    stack = ch.Stack(members, seed=3)
    step = ch.train_step(stack, F.cross_entropy, ch.optim.AdamW(stack))
    step.prefer(first.choices)
    step(ch.each(X), ch.each(Y))
    assert step.choices == first.choices
    assert f"in {choice}, as the run chose before" in ch.explain(step).notes[-1]
    other = ch.Stack(members, seed=3)
    step = ch.train_step(other, F.cross_entropy, ch.optim.AdamW(other), memory=200_000)
    step.prefer({name: "eager"})
    step(ch.each(X), ch.each(Y))
    assert step.choices == {name: "eager"}


@pytest.fixture
def compilations(monkeypatch):
    """The recordings that torch's compiler was given; each runs as recorded."""
    made = []

    def compiled(graph, **_):
        made.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", compiled)
    return made


def test_recorded_chunks_equal_all_at_once(compilations):
    members = nets()
    stack, losses, _ = trained(members, steps=6, engine="eager")
    other, found, step = trained(members, steps=6, engine="compiled", memory=300_000)
    assert step.settled
    ((_, choice),) = step.choices.items()
    assert choice.endswith(" chunks, compiled")
    assert "a chunk of 5x400x6, 5x400 is compiled: as asked" in str(ch.explain(step))
    torch.testing.assert_close(found, losses, rtol=1e-9, atol=1e-12)
    for name, tensor in stack.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-6, atol=1e-9)


def test_chunks_that_differ_in_their_members_alone_are_compiled_once(compilations):
    members = [Net().double() for _ in range(4)]
    x, y = torch.randn(4, 400, 6, dtype=torch.float64), torch.randint(0, 4, (4, 400))
    found = []
    for settings in ({"engine": "eager"}, {"engine": "compiled", "memory": 200_000}):
        stack = ch.Stack(members, seed=3)
        step = ch.train_step(stack, F.cross_entropy, ch.optim.SGD(stack, lr=0.1), **settings)
        found.append(torch.stack([step(ch.each(x), ch.each(y)) for _ in range(6)]))
    assert int(next(iter(step.choices.values())).split()[0]) > 1
    assert len(compilations) == 1
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


def test_chunks_compile_and_go_on_as_they_were():
    members = nets()
    _, losses, first = trained(members, steps=4, memory=300_000, engine="compiled")
    stack = ch.Stack(members, seed=3)
    optimizer = ch.optim.AdamW(stack, lr=[1e-3, 1e-2, 3e-2, 1e-2, 1e-3])
    step = ch.train_step(stack, F.cross_entropy, optimizer, clip=0.5)
    step.prefer(first.choices)
    step(ch.each(X), ch.each(Y))
    assert step.choices == first.choices
    assert "is compiled: as the run chose before" in str(ch.explain(step))
    _, others, _ = trained(members, steps=4, engine="eager")
    torch.testing.assert_close(losses, others, rtol=1e-9, atol=1e-12)


def test_a_recorded_chunk_that_differs_is_not_used(monkeypatch):
    monkeypatch.setattr(
        torch, "compile", lambda graph, **_: lambda *a: [1.1 * one for one in graph(*a)]
    )
    members = nets()
    with pytest.warns(ch.ChimeraWarning, match="the recorded chunk differs from eager by"):
        _, losses, step = trained(members, memory=300_000, engine="compiled")
    assert step.settled
    _, others, _ = trained(members, engine="eager")
    torch.testing.assert_close(losses, others, rtol=1e-9, atol=1e-12)


def test_short_runs_take_their_chunks_eagerly():
    _, _, step = trained(nets(), memory=300_000)
    assert not step.settled
    _, _, step = trained(nets(), memory=300_000, steps=3)
    stack = ch.Stack(nets())
    optimizer = ch.optim.SGD(stack)
    step = ch.train_step(stack, F.cross_entropy, optimizer, memory=300_000, engine="auto", steps=2)
    step(ch.each(X), ch.each(Y))
    assert step.settled
    assert next(iter(step.choices.values())).endswith(" chunks, eager")


def test_measured_chunks_choose(compilations):
    _, _, step = trained(nets(), steps=14, memory=300_000, engine="measure")
    assert step.settled
    assert next(iter(step.choices.values())).endswith((" chunks, compiled", " chunks, eager"))
    assert "measured: eager" in str(ch.explain(step))


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, output, target):
        self.calls += 1
        return F.cross_entropy(output, target)


def test_a_prediction_leaves_no_trace_of_what_the_loss_writes():
    found = []
    for how in ({}, {"memory": 10**9}):
        stack, loss = ch.Stack(nets(), seed=3), Counting()
        step = ch.train_step(stack, loss, ch.optim.SGD(stack, lr=0.1), engine="eager", **how)
        step(ch.each(X), ch.each(Y))
        found.append(loss.calls)
    assert found[0] == found[1]
