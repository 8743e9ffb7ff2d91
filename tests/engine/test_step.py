import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch
from chimera.engine.step import TrainStep


class Net(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.last(self.drop(F.relu(self.first(x)))) * scale


def train_alone(module, number, data, loss, optimizer, seed, steps):
    losses = []
    for step in range(steps):
        with ch.randomness(seed=seed, member=number, step=step):
            x, y = data[step]
            value = loss(module(x), y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(
    "loss", [F.cross_entropy, nn.CrossEntropyLoss(), lambda o, y: F.cross_entropy(o, y)]
)
def test_twenty_steps_equal_each_member_alone(dropout, loss):
    torch.manual_seed(0)
    nets = [Net(dropout).double() for _ in range(4)]
    rates = [0.001, 0.01, 0.03, 0.1]
    xs = torch.randn(20, 4, 8, 6, dtype=torch.float64)
    ys = torch.randint(0, 3, (20, 4, 8))
    stack = ch.Stack(nets, seed=7)
    step = ch.train_step(stack, loss, ch.optim.AdamW(stack, lr=rates, weight_decay=0.1))
    losses = torch.stack([step(ch.each(x), ch.each(y)) for x, y in zip(xs, ys, strict=True)], 1)
    for i, net in enumerate(nets):
        alone = torch.optim.AdamW(net.parameters(), lr=rates[i], weight_decay=0.1)
        data = list(zip(xs[:, i], ys[:, i], strict=True))
        expected = train_alone(net, i, data, loss, alone, 7, 20)
        torch.testing.assert_close(
            losses[i], torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-12
        )
        for name, tensor in net.state_dict().items():
            torch.testing.assert_close(stack[i].state_dict()[name], tensor, rtol=1e-6, atol=1e-12)


def test_arguments_are_shared_unless_each_and_inputs_may_be_named():
    stack = ch.Stack(ch.instances(Net, 3))
    step = ch.train_step(stack, F.cross_entropy, ch.optim.SGD(stack, lr=0.1))
    x, y = torch.randn(4, 6), torch.randint(0, 3, (4,))
    before = [net.state_dict() for net in stack]
    losses = step(ch.inputs(x, scale=2.0), y)
    assert losses.shape == (3,)
    assert not losses.requires_grad
    for loss, state in zip(losses, before, strict=True):
        net = Net()
        net.load_state_dict(state)
        torch.testing.assert_close(loss, F.cross_entropy(net(x, scale=2.0), y).detach())


def test_the_step_counts_draws_by_the_optimizer():
    stack = ch.Stack(ch.instances(Net, 2, dropout=0.5), seed=3)
    optimizer = ch.optim.SGD(stack, lr=0.0)
    step = ch.train_step(stack, F.cross_entropy, optimizer)
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    first, second = step(x, y), step(x, y)
    assert not torch.equal(first, second)
    optimizer.steps = 0
    assert torch.equal(step(x, y), first)


@pytest.mark.parametrize("classes", [1, 15, 16, 40])
def test_cross_entropy_over_few_and_many_classes(classes):
    stack = ch.Stack(ch.instances(nn.Linear, 3, 6, classes)).double()
    x, y = torch.randn(7, 6, dtype=torch.float64), torch.randint(0, classes, (7,))
    y[2] = -100
    optimizer = ch.optim.SGD(stack, lr=0.1)
    ch.verify(stack, x, y, loss=F.cross_entropy, optimizer=optimizer, steps=3, raises=True)


def test_ignored_targets_do_not_count():
    stack = ch.Stack(ch.instances(Net, 3))
    step = ch.train_step(stack, F.cross_entropy, ch.optim.SGD(stack, lr=0.0))
    x, y = torch.randn(6, 6), torch.tensor([0, 1, -100, 2, -100, 1])
    expected = torch.stack([F.cross_entropy(net(x), y) for net in stack])
    torch.testing.assert_close(step(x, y), expected.detach())


def test_a_target_out_of_range_is_an_error_as_alone():
    stack = ch.Stack(ch.instances(Net, 3))
    step = ch.train_step(stack, F.cross_entropy, ch.optim.SGD(stack, lr=0.0))
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        step(torch.randn(2, 6), torch.tensor([0, 3]))


def test_one_loss_for_many_shapes_of_outputs():
    nets = [nn.Linear(6, 1), nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))]
    stack = ch.Stack(nets)
    step = ch.train_step(stack, F.mse_loss, ch.optim.SGD(stack, lr=0.1))
    x, y = torch.randn(5, 6), torch.randn(5, 1)
    expected = torch.stack([F.mse_loss(net(x), y).detach() for net in nets])
    torch.testing.assert_close(step(x, y), expected)


def test_mistakes_are_told():
    stack = ch.Stack(ch.instances(Net, 2))
    optimizer = ch.optim.SGD(stack, lr=0.1)
    x, y = torch.randn(4, 6), torch.randint(0, 3, (4,))
    with pytest.raises(TypeError, match=r"one of torch\.optim"):
        ch.train_step(Net(), F.cross_entropy, optimizer)
    with pytest.raises(TypeError, match="give an instance of the class"):
        ch.train_step(stack, nn.CrossEntropyLoss, optimizer)
    with pytest.raises(TypeError, match="loss must be callable"):
        ch.train_step(stack, "mse", optimizer)
    with pytest.raises(TypeError, match=r"ch\.optim optimizer"):
        ch.train_step(stack, F.cross_entropy, torch.optim.SGD(stack.parameters(), lr=0.1))
    other = ch.Stack(ch.instances(Net, 2))
    with pytest.raises(ValueError, match="none of the stack's parameters"):
        ch.train_step(other, F.cross_entropy, optimizer)
    with pytest.raises(ValueError, match="one number a member"):
        ch.train_step(stack, lambda o, y: o, optimizer)(x, y)
    with pytest.raises(TypeError, match="must give a tensor"):
        ch.train_step(stack, lambda o, y: None, optimizer)(x, y)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        ch.train_step(stack, lambda o, y: o.detach().sum(), optimizer)(x, y)
    with pytest.raises(ValueError, match="leading axis of 2"):
        ch.train_step(stack, F.cross_entropy, optimizer)(ch.each(torch.randn(3, 4, 6)), y)


def test_a_failing_step_changes_nothing():
    stack = ch.Stack(ch.instances(Net, 2))
    optimizer = ch.optim.SGD(stack, lr=0.1)
    before = [p.clone() for p in stack.parameters()]
    with pytest.raises(RuntimeError):
        ch.train_step(stack, F.cross_entropy, optimizer)(torch.randn(4, 7), torch.zeros(4).long())
    assert optimizer.steps == 0
    for old, new in zip(before, stack.parameters(), strict=True):
        assert torch.equal(old, new)


def test_explain_asks_the_step():
    stack = ch.Stack(ch.instances(Net, 2))
    step = ch.train_step(stack, F.cross_entropy, ch.optim.SGD(stack, lr=0.1))
    assert isinstance(step, TrainStep)
    assert "batched product" in str(ch.explain(step))


class Doubled(ch.Stack):
    """A stack that does more than call its members."""

    def forward(self, *args, **kwargs):
        return 2 * super().forward(*args, **kwargs)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_what_stands_around_a_stack_is_not_passed_by(engine):
    nets, x = [nn.Linear(4, 2) for _ in range(3)], torch.randn(5, 4)

    def mean(out):
        return out.mean()

    stack = ch.Stack(nets)
    step = ch.train_step(stack, mean, ch.optim.SGD(stack, lr=0.0), engine=engine)
    before = step(x)
    for register in (
        stack.register_forward_hook,
        stack.register_forward_pre_hook,
        stack.register_full_backward_hook,
    ):
        handle = register(lambda *_: None)
        with pytest.raises(ValueError, match="stack has hooks of its own, which a step passes by"):
            step(x)
        handle.remove()
    assert torch.equal(step(x), before)
    own = Doubled(nets)
    step = ch.train_step(own, mean, ch.optim.SGD(own, lr=0.0), engine=engine)
    with pytest.raises(ValueError, match="stack has a forward of its own"):
        step(x)
