import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import chimera as ch
from chimera.build.datafree import is_uninitialized


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.LazyLinear(64), nn.ReLU(), nn.LazyLinear(32), nn.ReLU())
        self.linear = nn.LazyLinear(16)

    def forward(self, x):
        return self.linear(self.net(x))


class FixedHidden(nn.Module):
    """A constant as a plain attribute, a layer used twice, a loop on data."""

    def __init__(self):
        super().__init__()
        self.constant = torch.rand(20, 20)
        self.linear = nn.LazyLinear(20)

    def forward(self, x):
        x = F.relu(self.linear(x) @ self.constant + 1)
        x = self.linear(x)
        while x.abs().sum() > 1:
            x = x / 2
        return x.sum()


def chimera_of_three():
    return nn.Sequential(Nested(), nn.LazyLinear(20), FixedHidden())


def state(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def adopting():
    with pytest.warns(ch.ChimeraWarning, match="constant: plain tensor"):
        yield


def test_a_nested_lazy_network_is_built_in_place(adopting):
    net = chimera_of_three()
    parameters = list(net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    assert ch.build(net, ch.spec(2, 20)) is net
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    assert not any(is_uninitialized(parameter) for parameter in net.parameters())
    assert type(net[1]) is nn.Linear
    assert sum(parameter.numel() for parameter in net.parameters()) == 4712
    before = state(net)
    net(torch.rand(2, 20)).backward()
    optimizer.step()
    after = state(net)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(before["2.constant"], after["2.constant"])


def test_the_whole_network_is_cast_saved_and_loaded(adopting):
    net = ch.build(chimera_of_three(), ch.spec("batch", 20))
    x = torch.rand(2, 20)
    other = ch.build(chimera_of_three(), ch.spec("batch", 20), seed=1)
    assert not torch.equal(net(x), other(x))
    other.load_state_dict(net.state_dict())
    assert torch.equal(net(x), other(x))
    net.double()
    assert net(x.double()).dtype == torch.float64


def test_what_is_drawn_depends_on_seed_and_path_alone():
    def head():
        return nn.Sequential(nn.LazyLinear(7), nn.ReLU(), nn.LazyLinear(3))

    torch.manual_seed(1)
    one = ch.build(nn.ModuleDict({"head": head()}).head, ch.spec(2, 20), seed=5)
    torch.manual_seed(2)
    two = ch.build(head(), ch.spec(9, 20), seed=5)
    assert same(state(one), state(two))
    assert not same(state(one), state(ch.build(head(), ch.spec(9, 20), seed=6)))
    longer = nn.Sequential(nn.LazyLinear(7), nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    longer = ch.build(longer, ch.spec(9, 20), seed=5)
    assert torch.equal(longer[0].weight, one[0].weight)
    assert torch.equal(longer[2].weight, one[2].weight)
    same_shape = ch.build(nn.Sequential(nn.LazyLinear(20), nn.LazyLinear(20)), ch.spec(2, 20))
    assert not torch.equal(same_shape[0].weight, same_shape[1].weight)
    as_double = ch.build(head(), ch.spec(2, 20), seed=5, dtype=torch.float64)
    assert as_double[0].weight.dtype == torch.float64
    assert torch.equal(as_double[0].weight.float(), one[0].weight)


def test_the_callers_generators_are_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    ch.build(lambda: nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(2)), ch.spec(2, 3))
    ch.shapes(lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout()), ch.spec(2, 3))
    assert torch.equal(torch.rand(2), expected)


def test_a_factory_gives_the_same_network_again():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.eager = nn.Linear(4, 4)
            self.lazy = nn.LazyLinear(2)

        def forward(self, x):
            return self.lazy(self.eager(x))

    one = ch.build(Mixed, ch.spec(3, 4), seed=3)
    two = ch.build(Mixed, ch.spec(3, 4), seed=3)
    other = ch.build(Mixed, ch.spec(3, 4), seed=4)
    assert same(state(one), state(two))
    assert not torch.equal(one.eager.weight, other.eager.weight)
    assert not torch.equal(one.lazy.weight, other.lazy.weight)


def test_building_twice_is_building_once(adopting):
    net = ch.build(chimera_of_three(), ch.spec(2, 20), dtype=torch.float64)
    before, parameters = state(net), list(net.parameters())
    assert ch.build(net, ch.spec(2, 20), seed=9, dtype=torch.float64) is net
    assert same(before, state(net))
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))


def test_values_that_are_there_are_kept():
    net = nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(3))
    nn.init.constant_(net[0].weight, 7.0)
    net[1].bias = nn.Parameter(torch.full((3,), 5.0))
    ch.build(net, ch.spec(2, 4))
    assert (net[0].weight == 7).all()
    assert (net[1].bias == 5).all()
    assert net[1].weight.shape == (3, 4)


def test_values_of_a_wrong_shape_are_refused():
    net = nn.Sequential(nn.LazyLinear(3))
    net[0].bias = nn.Parameter(torch.zeros(4))
    with pytest.raises(ValueError, match=r"given values \[4\] should be \[3\]"):
        ch.build(net, ch.spec(2, 4))
    assert is_uninitialized(net[0].weight)


def test_a_tie_between_lazy_layers_holds():
    net = nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(4))
    net[1].weight = net[0].weight
    ch.build(net, ch.spec(2, 4))
    assert net[0].weight is net[1].weight
    alone = ch.build(nn.Sequential(nn.LazyLinear(4)), ch.spec(2, 4))
    assert torch.equal(net[0].weight, alone[0].weight)


def test_ties_hold():
    shared = nn.LazyLinear(6, bias=False)
    net = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(6, 6))
    net[3].weight = net[3].weight
    ch.build(net, ch.spec(2, 6))
    assert net[0] is net[2]
    assert len(list(net.parameters())) == 3


@pytest.mark.parametrize("device", ["meta"])
def test_a_network_goes_to_a_device(device):
    net = ch.build(nn.Sequential(nn.LazyLinear(3)), ch.spec(2, 4), device=device)
    assert net[0].weight.device.type == device
    assert net[0].weight.shape == (3, 4)


def test_a_mismatch_names_the_joint_and_changes_nothing():
    net = nn.Sequential(
        nn.Sequential(nn.LazyLinear(20), nn.ReLU(), nn.Linear(20, 5)),
        nn.Sequential(nn.Linear(10, 20), nn.LazyLinear(5)),
    )
    with pytest.raises(RuntimeError) as caught:
        ch.build(net, ch.spec(32, 10))
    (note,) = caught.value.__notes__
    assert note.splitlines()[:3] == [
        "in the module at 1.0: Linear(in_features=10, out_features=20, bias=True)",
        "  came: float32 [32, 5] from 0.2, Linear(in_features=20, out_features=5, bias=True)",
        "  wanted: float32 [..., 10]",
    ]
    assert type(net[0][0]) is nn.LazyLinear
    assert is_uninitialized(net[0][0].weight)


def test_a_network_whose_build_fails_late_is_as_it_was():
    class Failing(nn.modules.lazy.LazyModuleMixin, nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.UninitializedParameter()

        def initialize_parameters(self, x):
            self.weight.materialize(x.shape[-1:])
            if not self.weight.is_meta:
                raise ValueError("no such luck")

        def forward(self, x):
            return x * self.weight

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.LazyLinear(3)
            self.last = Failing()
            self.constant = torch.ones(3)

        def forward(self, x):
            return self.last(self.first(x)) * self.constant

    net = Net()
    before = dict(net.first.__dict__), list(net.first._forward_pre_hooks)
    with pytest.raises(ValueError, match="no such luck") as caught:
        ch.build(net, ch.spec(2, 4), dtype=torch.float64)
    assert "in the initialization of last" in caught.value.__notes__[0]
    assert type(net.first) is nn.LazyLinear
    assert net.first.in_features == 0
    assert is_uninitialized(net.first.weight)
    assert is_uninitialized(net.last.weight)
    assert (dict(net.first.__dict__), list(net.first._forward_pre_hooks)) == before
    assert "constant" in net.__dict__
    net.first(torch.rand(2, 4))
    assert net.first.weight.shape == (3, 4)


def test_lazy_modules_that_are_never_reached_are_named():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.LazyLinear(3), nn.Sequential(nn.LazyLinear(3))

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ValueError, match=r"no run reached have no shapes: spare\.0; call them"):
        ch.build(Unused(), ch.spec(2, 4))


def test_a_branch_that_fails_is_the_cause_of_what_was_not_reached():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.wrong, self.right = nn.LazyLinear(3), nn.Linear(9, 2), nn.LazyLinear(3)

        def forward(self, x):
            return self.left(x) if x.mean() > 0 else self.right(self.wrong(x))

    with pytest.raises(ValueError, match="no shapes: right") as caught:
        ch.build(Half(), ch.spec(2, 4))
    assert "in the module at wrong: Linear" in caught.value.__cause__.__notes__[0]


def test_lazy_modules_in_every_branch_get_their_shapes():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.LazyLinear(3), nn.LazyLinear(3)
            self.deep = nn.LazyLinear(2)

        def forward(self, x):
            if x.mean() > 0:
                return self.left(x)
            x = self.right(x)
            while x.sum() > 0:
                x = x - 1
                if x.max() > 3:
                    return self.deep(x)
            return x

    net = ch.build(Branching(), ch.spec(2, 4))
    assert net.left.weight.shape == net.right.weight.shape == (3, 4)
    assert net.deep.weight.shape == (2, 3)


class Masking(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.LazyLinear(3)

    def forward(self, x):
        return self.linear(x[:, x[0] > 0])


def test_where_data_is_needed_an_example_gives_it():
    with pytest.raises(RuntimeError, match=r"test_builder.py:\d+ needs the data.*example="):
        ch.build(Masking(), ch.spec(2, 4))
    example = torch.tensor([[1.0, -1.0, 2.0, 3.0]])
    net = ch.build(Masking(), example=example)
    assert net.linear.weight.shape == (3, 3)
    assert net(example).shape == (1, 3)
    again = ch.build(Masking(), ch.spec(1, 4), example=example)
    assert same(state(net), state(again))


def test_an_example_is_not_changed_and_leaves_no_trace():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LazyBatchNorm1d()

        def forward(self, x):
            x += 1
            return self.norm(x)

    example = torch.zeros(4, 3)
    net = ch.build(Counting(), example=example)
    assert (example == 0).all()
    assert net.norm.num_batches_tracked == 0
    assert (net.norm.running_mean == 0).all()


def test_state_that_forward_changes_is_as_it_was():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.calls, self.seen = nn.BatchNorm1d(4), 0, []

        def forward(self, x):
            self.calls += 1
            self.seen.append(x)
            self.last = x
            return self.norm(x)

    net = ch.build(Stateful(), ch.spec(3, 4))
    assert (net.calls, net.seen) == (0, [])
    assert not hasattr(net, "last")
    assert net.norm.num_batches_tracked == 0


def test_what_cannot_be_copied_is_shared():
    class Locked(nn.Module):
        def __init__(self):
            super().__init__()
            self.lock, self.linear = threading.Lock(), nn.LazyLinear(3)

        def forward(self, x):
            with self.lock:
                return self.linear(x)

    assert ch.build(Locked(), ch.spec(2, 4)).linear.weight.shape == (3, 4)


def test_user_defined_lazy_modules_are_built():
    class Scale(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = weight

        def forward(self, x):
            return x * self.weight

    class LazyScale(nn.modules.lazy.LazyModuleMixin, Scale):
        cls_to_become = Scale

        def __init__(self):
            super().__init__(nn.UninitializedParameter())

        def initialize_parameters(self, x):
            self.weight.materialize(x.shape[-1:])
            nn.init.normal_(self.weight)

    net = ch.build(nn.Sequential(LazyScale(), nn.LazyLinear(2), LazyScale()), ch.spec(2, 6000))
    assert type(net[0]) is Scale
    assert net[0].weight.shape == (6000,)
    assert net(torch.rand(2, 6000)).shape == (2, 2)
    assert net[0].weight.std() > 0.9


def test_an_uninitialized_parameter_outside_a_lazy_module_is_named():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.UninitializedParameter()

        def forward(self, x):
            return x

    with pytest.raises(ValueError, match=r"outside lazy modules: 0\.weight"):
        ch.build(nn.Sequential(Own()), ch.spec(2, 4))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((nn.Linear(2, 2),), TypeError, r"give spec=ch.spec\(...\), or example="),
        ((nn.Linear(2, 2), (2, 2)), TypeError, r"a bare shape; write ch.spec\(2, 2\)"),
        ((3, ch.spec(2)), TypeError, "must be a class or a function that makes a module; got 3"),
        ((lambda: 3, ch.spec(2)), TypeError, "must return an nn.Module; got 3 of type int"),
        ((nn.Linear(2, 2), ch.spec(2, 2), 1.5), TypeError, "seed must be an int"),
        ((nn.Linear(2, 2), ch.spec(2, 2), 0, None, "half"), TypeError, "dtype must be"),
        ((nn.Linear(2, 2), ch.spec(2, 2), 0, "x"), ValueError, "device 'x' cannot be used here"),
        ((nn.Linear(2, 2), ch.spec(2, 2), 0, 1.5), TypeError, "device must be a device"),
        (
            (nn.Linear(2, 2), ch.spec(2, 2), 0, None, None, None, "no"),
            TypeError,
            "reinitialize must be True or False, got 'no'",
        ),
    ],
)
def test_a_wrong_argument_is_named(arguments, kind, message):
    with pytest.raises(kind, match=message):
        ch.build(*arguments)


def test_an_example_must_be_real():
    with pytest.raises(TypeError, match="example must hold real tensors"):
        ch.build(nn.Linear(2, 2), example=ch.spec(2, 2))


def test_a_constructor_that_fails_is_named():
    with pytest.raises(TypeError) as caught:
        ch.build(nn.Linear, ch.spec(2))
    assert caught.value.__notes__ == ["in instance 0 of Linear"]


def test_build_without_gradients_gives_parameters_that_train():
    with torch.no_grad():
        net = ch.build(nn.Sequential(nn.LazyLinear(2)), ch.spec(2, 3))
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_frozen_stays_frozen():
    net = nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 2))
    for parameter in net.parameters():
        parameter.requires_grad = False
    ch.build(net, ch.spec(2, 3))
    assert not any(parameter.requires_grad for parameter in net.parameters())
