import pytest
import torch
from torch import nn

import chimera as ch


class Net(nn.Module):
    def __init__(self, hidden=6, *, depth=1):
        super().__init__()
        self.first = nn.Linear(4, hidden)
        self.rest = nn.Sequential(*(nn.LazyLinear(hidden) for _ in range(depth)))

    def forward(self, x):
        return self.rest(self.first(x))


def equal(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_instances_belong_to_seed_and_index():
    torch.manual_seed(0)
    nets = ch.instances(Net, 4, seed=3, spec=ch.spec(2, 4))
    torch.rand(5)
    again = ch.instances(Net, 6, seed=3, spec=ch.spec(9, 4))
    other = ch.instances(Net, 4, seed=4, spec=ch.spec(2, 4))
    for index, net in enumerate(nets):
        assert equal(net, again[index])
        assert not torch.equal(net.first.weight, other[index].first.weight)
        assert not torch.equal(net.rest[0].weight, other[index].rest[0].weight)
    for name in ("first.weight", "rest.0.weight", "rest.0.bias"):
        drawn = torch.stack([net.get_parameter(name).flatten() for net in again])
        assert len(drawn.unique(dim=0)) == 6


def test_what_a_constructor_draws_is_what_build_gives():
    (net,) = ch.instances(lambda: nn.Linear(4, 4), 1, seed=3)
    assert equal(net, ch.build(lambda: nn.Linear(4, 4), ch.spec(2, 4), seed=3))


def test_the_callers_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    ch.instances(Net, 3, spec=ch.spec(2, 4))
    assert torch.equal(torch.rand(2), expected)


def test_arguments_go_to_the_factory():
    nets = ch.instances(Net, 2, 8, depth=2, spec=ch.spec(2, 4))
    assert [tuple(net.rest[1].weight.shape) for net in nets] == [(8, 8), (8, 8)]


def test_without_a_spec_lazy_layers_stay_lazy():
    (net,) = ch.instances(Net, 1)
    assert type(net.rest[0]) is nn.LazyLinear


def test_instances_of_different_structures_are_each_tried():
    made = []

    def factory():
        made.append(None)
        return Net(hidden=3 + len(made) % 2, depth=len(made))

    nets = ch.instances(factory, 4, spec=ch.spec(2, 4))
    assert [net.first.out_features for net in nets] == [4, 3, 4, 3]
    assert [net(torch.rand(2, 4)).shape[1] for net in nets] == [4, 3, 4, 3]
    assert [len(net.rest) for net in nets] == [1, 2, 3, 4]


def test_shapes_that_hang_on_values_are_found_for_each():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.width = torch.randint(1, 5, ())
            self.register_buffer("keep", torch.rand(4) > 0.5)
            self.keep[0] = True
            self.cut, self.masked = nn.LazyLinear(2), nn.LazyLinear(2)

        def forward(self, x):
            return self.cut(x[:, : int(self.width)]) + self.masked(x[:, self.keep])

    with pytest.warns(ch.ChimeraWarning, match="instances: in each of 20: width"):
        nets = ch.instances(Cut, 20, spec=ch.spec(2, 4))
    for net in nets:
        assert net.cut.in_features == int(net.width)
        assert net.masked.in_features == int(net.keep.sum())
    assert len({net.cut.in_features for net in nets}) > 1
    assert len({net.masked.in_features for net in nets}) > 1


def test_a_trial_is_shared_by_instances_of_one_structure(monkeypatch):
    import sys

    module = sys.modules["chimera.build.builder"]
    tries, try_shapes = [], module.try_shapes
    monkeypatch.setattr(
        module, "try_shapes", lambda *given: tries.append(None) or try_shapes(*given)
    )
    ch.instances(Net, 8, depth=3, spec=ch.spec(2, 4))
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((Net, 0), ValueError, "n must be at least 1; got 0"),
        ((Net, -2), ValueError, "n must be at least 1; got -2"),
        ((Net, 2.0), TypeError, "n must be an int; got 2.0"),
        ((Net, True), TypeError, "n must be an int; got True"),
        ((nn.Linear(2, 2), 3), TypeError, r"got an instance of Linear; give the class \(Linear\)"),
        (("Net", 3), TypeError, "factory must be a class or a function.*got 'Net' of type str"),
        ((lambda: None, 3), TypeError, "must return an nn.Module; got None"),
    ],
)
def test_a_wrong_argument_is_named(arguments, kind, message):
    with pytest.raises(kind, match=message):
        ch.instances(*arguments)


def test_a_factory_must_make_a_new_module_each_time():
    one = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="instances 0 and 1 are one module"):
        ch.instances(lambda: one, 2)


def test_an_error_names_the_instance():
    made = []

    def factory():
        made.append(None)
        if len(made) == 3:
            raise RuntimeError("no more")
        return nn.Linear(2, 2)

    with pytest.raises(RuntimeError, match="no more") as caught:
        ch.instances(factory, 5)
    (note,) = caught.value.__notes__
    line = factory.__code__.co_firstlineno + 3
    assert note == f"in instance 2 of factory\n  line: {__file__}:{line}"
    with pytest.raises(RuntimeError) as caught:
        ch.instances(nn.Linear, 2, 3, 3, spec=ch.spec(2, 4))
    assert "in the module at (root): Linear" in caught.value.__notes__[0]
    assert caught.value.__notes__[1] == "in the build of instance 0"
