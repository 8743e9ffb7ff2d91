"""Any module comes back from its file, bit for bit, or nothing changes."""

import copy
import json
from collections import OrderedDict, deque
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import chimera as ch
from chimera.build.adopt import adopt
from chimera.stack.files import load, save
from chimera.stack.members import row_of, runs
from chimera.store import TensorFile, write_tensors


class Extra(nn.Module):
    def __init__(self, state):
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.state = state

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        if state == "planted":
            raise KeyError("planted")
        self.state = state


class Tied(nn.Module):
    """A shared layer, a tied weight, a persistent and a passing buffer."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight
        self.again = self.a
        self.register_buffer("kept", torch.randn(3))
        self.register_buffer("passing", torch.randn(3), persistent=False)


def lazy():
    return nn.Sequential(
        nn.LazyConv2d(3, 2), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)
    )


def bits(module: nn.Module) -> dict[str, bytes]:
    return {
        name: value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, value in module.state_dict().items()
        if isinstance(value, torch.Tensor)
    }


layers = st.sampled_from(
    [
        lambda: nn.Linear(3, 2),
        lambda: nn.Linear(2, 2, dtype=torch.float64),
        lambda: nn.BatchNorm1d(4),
        lambda: nn.Embedding(3, 2, dtype=torch.bfloat16),
        lambda: nn.GRU(2, 3),
        lambda: nn.MultiheadAttention(4, 2),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)),
        lambda: nn.Dropout(),
        lambda: nn.PReLU(dtype=torch.complex128, init=1.0),
    ]
)


@given(
    makes=st.lists(layers, max_size=5),
    share=st.integers(0, 4),
    seed=st.integers(0, 100),
)
@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_is_saved_comes_back_bit_for_bit(tmp_path, makes, share, seed):
    def make() -> nn.Module:
        parts = [make() for make in makes]
        return nn.Sequential(*parts, *parts[:share])

    torch.manual_seed(seed)
    net = make()
    save(net, tmp_path / "net")
    torch.manual_seed(seed + 1)
    other = make()
    assert load(tmp_path / "net", into=other) is other
    assert bits(other) == bits(net)


def test_ties_are_stored_once_and_stay(tmp_path: Path):
    net = Tied()
    save(net, tmp_path / "net")
    size = (tmp_path / "net").stat().st_size
    save(nn.ModuleDict({"a": nn.Linear(4, 4)}), tmp_path / "one")
    assert size - (tmp_path / "one").stat().st_size < 64 + 700  # the buffer, and words about it
    other = load(tmp_path / "net", into=Tied)
    assert bits(other) == bits(net)
    assert other.a.weight is other.b.weight is other.again.weight


def test_passing_buffers_stay_where_they_are(tmp_path: Path):
    net, other = Tied(), Tied()
    before = other.passing.clone()
    save(net, tmp_path / "net")
    load(tmp_path / "net", into=other)
    assert torch.equal(other.passing, before)


def test_a_tie_that_the_file_has_not_is_refused(tmp_path: Path):
    apart = Tied()
    apart.b.weight = nn.Parameter(torch.zeros(4, 4))
    save(apart, tmp_path / "net")
    other = Tied()
    before = bits(other)
    with pytest.raises(ch.CheckpointError, match=r"'a.weight' and 'b.weight' are one tensor in"):
        load(tmp_path / "net", into=other)
    assert bits(other) == before


def test_a_tie_that_the_module_has_not_is_said(tmp_path: Path):
    save(Tied(), tmp_path / "net")
    apart = Tied()
    apart.b.weight = nn.Parameter(torch.zeros(4, 4))
    with pytest.warns(ch.ChimeraWarning, match=r"keeps apart: a.weight = b.weight"):
        load(tmp_path / "net", into=apart)
    assert torch.equal(apart.a.weight, apart.b.weight)


def test_lazy_networks_take_the_shapes_of_the_file(tmp_path: Path):
    net, x = lazy(), torch.randn(4, 2, 5, 5)
    net(x)
    save(net, tmp_path / "net")
    random = torch.random.get_rng_state()
    other = load(tmp_path / "net", into=lazy)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert bits(other) == bits(net)
    assert repr(other) == repr(net)
    assert torch.equal(other.eval()(x), net.eval()(x))


def test_a_lazy_network_of_another_dtype_stays_lazy(tmp_path: Path):
    net = lazy()
    net(torch.randn(4, 2, 5, 5))
    save(net, tmp_path / "net")
    other = lazy().double()
    with pytest.raises(ch.CheckpointError, match="float64, uninitialized in `into`"):
        load(tmp_path / "net", into=other)
    other(torch.randn(4, 7, 5, 5, dtype=torch.float64))


def test_what_is_not_built_is_not_saved(tmp_path: Path):
    with pytest.raises(ValueError, match=r"'0.weight' is uninitialized.*ch\.build"):
        save(lazy(), tmp_path / "net")
    with pytest.raises(ValueError, match="'weight' is on the meta device"):
        save(nn.Linear(2, 2, device="meta"), tmp_path / "net")
    with pytest.raises(TypeError, match="module: expected a module, got dict"):
        save({}, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "state", [{"a": [1, 2.5, None, True], "b": {"c": "☃"}}, [], "", 0, torch.arange(3)]
)
def test_extra_state_comes_back(tmp_path: Path, state):
    save(Extra(state), tmp_path / "net")
    back = load(
        tmp_path / "net", into=Extra(torch.zeros(3).long() if torch.is_tensor(state) else 1)
    )
    assert torch.equal(back.state, state) if torch.is_tensor(state) else back.state == state


def same(one, other):
    """Whether two values are of the same types, and equal; NaN equals NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        grads = one.requires_grad == other.requires_grad
        return one.dtype == other.dtype and torch.equal(one, other) and grads
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


SAYABLE = [
    *((1, 2), {1: "a"}, {"a": {1}}, float("nan"), {"t": (1,)}, {None: True, (1, "x"): b"\x00a"}),
    *(frozenset((1, 2)), OrderedDict(b=1, a=2), 1 + 2j, [float("inf"), -0.0, 1e-310], 10**40),
    *(torch.float16, torch.device("cpu"), torch.Size([2, 3]), ["tensor", ["x", False]]),
    {"n": torch.arange(3), "of": [torch.eye(2, dtype=torch.complex128), torch.zeros(0)]},
    {"mean": (torch.ones(()), {3: torch.tensor([True])}), "p": nn.Parameter(torch.ones(2))},
]


@pytest.mark.parametrize("state", SAYABLE, ids=range(len(SAYABLE)))
def test_extra_state_keeps_its_types(tmp_path: Path, state):
    save(Extra(state), tmp_path / "net")
    assert same(load(tmp_path / "net", into=Extra(1)).state, state)
    stack = ch.Stack([Extra(state), Extra(state), Extra(state)])
    save(stack, tmp_path / "stack")
    assert same(load(tmp_path / "stack", into=Extra(1), member=1).state, state)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(state=values)
def test_any_extra_state_of_plain_values_comes_back(tmp_path: Path, state):
    save(Extra(state), tmp_path / "net")
    assert same(load(tmp_path / "net", into=Extra(1)).state, state)


def looped():
    state: list = []
    state.append(state)
    return state


@pytest.mark.parametrize("state", [object(), {"a": nn.Linear(1, 1)}, [deque()], looped(), len])
def test_extra_state_that_a_file_cannot_say_is_refused(tmp_path: Path, state):
    with pytest.raises(ValueError, match="the extra state '_extra_state' holds"):
        save(Extra(state), tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "trees",
    [
        *(
            3,
            [1],
            {"_extra_state": ["exec", "x"]},
            {"_extra_state": ["tensor", ["../../x", False]]},
        ),
        *({"_extra_state": ["tensor", 3]}, {"_extra_state": ["dict", [[["list", []], 1]]]}),
        *({"_extra_state": ["dtype", "load"]}, {"_extra_state": ["device", "zz"]}),
        *({"_extra_state": ["bytes", "!"]}, {"_extra_state": ["list", "abc"]}),
        *({"_extra_state": ["size", [["list", []]]]}, {"_extra_state": {"a": 1}}),
        *({"_extra_state": ["list", {"0": 1}]}, {"_extra_state": []}),
    ],
    ids=str,
)
def test_a_hostile_extra_state_is_one_clear_error(tmp_path: Path, trees):
    net = Extra("kept")
    meta = {"format": 1, "class": "Extra", "ties": {}, "extra": {}, "unregistered": []}
    held = {name: t for name, t in net.state_dict().items() if torch.is_tensor(t)}
    write_tensors(tmp_path / "net", held, meta | {"trees": trees})
    with pytest.raises(ch.CheckpointError, match=str(tmp_path / "net")):
        load(tmp_path / "net", into=net)
    assert net.state == "kept"


class Computed(Extra):
    """Its extra state is made when it is asked for."""

    def __init__(self):
        super().__init__(0)

    def get_extra_state(self):
        return {"n": torch.full((64,), 7.5)}


def test_a_damaged_tensor_of_a_members_extra_state_is_seen(tmp_path: Path):
    stack = ch.Stack([Computed(), Computed()])
    save(stack, tmp_path / "stack")
    content = (tmp_path / "stack").read_bytes()
    numbers = torch.full((64,), 7.5).numpy().tobytes()
    assert content.count(numbers) == 2
    place = content.rindex(numbers)
    (tmp_path / "stack").write_bytes(content[:place] + b"\1" + content[place + 1 :])
    into = Computed()
    damaged = 0
    for member in range(2):
        try:
            load(tmp_path / "stack", into=into, member=member)
        except ch.CheckpointError as error:
            damaged += "is damaged" in str(error)
    assert damaged == 1


@pytest.mark.parametrize("member", ["a", 1.0, True])
def test_a_member_is_an_int(tmp_path: Path, member):
    save(ch.Stack([nn.Linear(2, 2)]), tmp_path / "stack")
    with pytest.raises(TypeError, match="member must be the id of a member, an int"):
        load(tmp_path / "stack", into=nn.Linear(2, 2), member=member)


def test_names_that_do_not_fit_are_an_error_or_listed(tmp_path: Path):
    save(nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}), tmp_path / "net")
    other = nn.ModuleDict({"a": nn.Linear(2, 2), "c": nn.Linear(2, 2)})
    before = bits(other)
    with pytest.raises(
        ch.CheckpointError, match=r"lacks c.bias, c.weight and holds b.bias, b.weight"
    ):
        load(tmp_path / "net", into=other)
    assert bits(other) == before
    with pytest.warns(
        ch.ChimeraWarning, match=r"lacks c.bias, c.weight and holds b.bias, b.weight"
    ):
        load(tmp_path / "net", into=other, strict=False)
    assert bits(other)["a.weight"] != before["a.weight"]
    assert bits(other)["c.weight"] == before["c.weight"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (nn.Linear(2, 4), r"'bias' is float32 \[3\] in the file and float32 \[4\] in `into`"),
        (nn.Linear(2, 3).double(), r"'bias' is float32 \[3\] in the file and float64 \[3\]"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_shapes_and_dtypes_must_agree(tmp_path: Path, other, said, strict):
    save(nn.Linear(2, 3), tmp_path / "net")
    before = bits(other)
    with pytest.raises(ch.CheckpointError, match=said):
        load(tmp_path / "net", into=other, strict=strict)
    assert bits(other) == before


@pytest.mark.parametrize("named", [True, False])
def test_a_buffer_that_cannot_be_written_is_told(tmp_path: Path, named: bool):
    def made():
        net = nn.Sequential(nn.Linear(2, 2))
        if named:
            net.register_buffer("same", torch.ones(1).expand(4))
        else:  # which no file names
            net.register_buffer("same", torch.ones(1).expand(4), persistent=False)
            net.register_buffer("more", torch.ones(2))
        return net

    net = made()
    save(net, tmp_path / "net")
    save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "less")
    before = bits(into := made())
    said = "'same' of `into` share memory" if named else r"less: lacks more"
    with pytest.raises(ch.CheckpointError, match=said) as caught:
        load(tmp_path / ("net" if named else "less"), into)
    assert len(str(caught.value).splitlines()) == 1
    assert bits(into) == before


def test_a_lazy_layer_of_other_outputs_is_told_in_a_line(tmp_path: Path):
    save(nn.Linear(2, 2), tmp_path / "net")
    with pytest.raises(ch.CheckpointError, match="size mismatch for weight") as caught:
        load(tmp_path / "net", nn.LazyLinear(3))
    assert len(str(caught.value).splitlines()) == 1


def test_a_load_that_fails_late_leaves_the_module_as_it_was(tmp_path: Path):
    net = nn.ModuleList([nn.Linear(2, 2), nn.LazyLinear(2), Extra("planted")])
    net[1](torch.ones(1, 3))
    save(net, tmp_path / "net")
    other = nn.ModuleList([nn.Linear(2, 2), nn.LazyLinear(2), Extra("mine")])
    first, hooks = copy.deepcopy(other[0]), len(other[1]._forward_pre_hooks)
    with pytest.raises(KeyError, match="planted"):
        load(tmp_path / "net", into=other)
    assert bits(other[0]) == bits(first)
    assert other[2].state == "mine"
    assert len(other[1]._forward_pre_hooks) == hooks
    other[1](torch.ones(1, 7))  # still lazy: it takes another width
    assert other[1].weight.shape == (2, 7)


class Plain(nn.Module):
    """What state_dict forgets: a constant, a tensor in a dict, a layer in a list."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.constant = torch.randn(2)
        self.table = {"a": torch.randn(2)}
        self.layers = [nn.Linear(2, 2), nn.BatchNorm1d(2)]
        self.layers[0].register_buffer("passing", torch.randn(1), persistent=False)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.linear(x) * self.constant + self.table["a"]


def test_what_state_dict_forgets_comes_back(tmp_path: Path):
    net, x = Plain().eval(), torch.randn(3, 2)
    save(net, tmp_path / "net")
    assert "constant" not in net.state_dict()
    other = load(tmp_path / "net", into=Plain).eval()
    assert torch.equal(other(x), net(x))


def test_what_state_dict_forgets_is_put_back_when_a_load_fails(tmp_path: Path):
    save(nn.ModuleList([Plain(), Extra("planted")]), tmp_path / "net")
    other = nn.ModuleList([Plain().eval(), Extra("mine")])
    x = torch.randn(3, 2)
    before = other[0](x)
    with pytest.raises(KeyError, match="planted"):
        load(tmp_path / "net", into=other)
    assert torch.equal(other[0](x), before)


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.constant = torch.randn(2)


def adopted() -> Fixed:
    net = Fixed()
    adopt(net, [("", "constant")])
    assert "constant" in net.state_dict()
    return net


@pytest.mark.parametrize("before", [Fixed, adopted])
@pytest.mark.parametrize("after", [Fixed, adopted])
def test_a_constant_comes_back_adopted_or_not(tmp_path: Path, before, after):
    net, other = before(), after()
    save(net, tmp_path / "net")
    assert torch.equal(load(tmp_path / "net", into=other).constant, net.constant)


def test_a_file_without_an_adopted_constant_is_accepted_and_said(tmp_path: Path):
    save(nn.Module(), tmp_path / "net")
    other = adopted()
    before = other.constant.clone()
    with pytest.warns(ch.ChimeraWarning, match="lacks constant, plain tensors that build adopted"):
        load(tmp_path / "net", into=other)
    assert torch.equal(other.constant, before)


def test_what_has_no_place_is_said(tmp_path: Path):
    net, other = nn.Linear(2, 2), nn.Linear(2, 2)
    net.last = torch.ones(3)
    save(net, tmp_path / "net")
    with pytest.warns(ch.ChimeraWarning, match=r"holds last, kept outside of state_dict"):
        load(tmp_path / "net", into=other)
    assert bits(other) == bits(net)


def test_what_is_no_module_is_refused(tmp_path: Path):
    save(nn.Linear(2, 2), tmp_path / "net")
    with pytest.raises(TypeError, match="into: expected a module or a factory, got int"):
        load(tmp_path / "net", into=3)
    with pytest.raises(TypeError, match="into: the factory returned dict, expected a module"):
        load(tmp_path / "net", into=dict)


def test_a_damaged_file_changes_nothing(tmp_path: Path):
    path = tmp_path / "net"
    save(nn.Linear(20, 20), path)
    content = bytearray(path.read_bytes())
    content[-500] ^= 1
    path.write_bytes(content)
    other = nn.Linear(20, 20)
    before = bits(other)
    with pytest.raises(ch.CheckpointError, match="is damaged: the data of 'weight' has changed"):
        load(path, into=other)
    assert bits(other) == before


def test_a_file_of_a_newer_format_is_refused(tmp_path: Path):
    write_tensors(tmp_path / "net", {}, json.loads('{"format": 2}'))
    with pytest.raises(ch.CheckpointError, match="is of format 2, this version reads 1"):
        load(tmp_path / "net", into=nn.ReLU())


class OwnLazy(nn.modules.lazy.LazyModuleMixin, nn.Module):
    """A lazy class of a user's own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.UninitializedParameter()

    def initialize_parameters(self, x):
        if self.has_uninitialized_params():
            self.scale.materialize((3 * x.shape[-1],))

    def forward(self, x):
        return x.repeat(1, 3) * self.scale


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_lazy_class_of_ones_own_takes_the_shapes_of_the_file(tmp_path: Path):
    net, x = OwnLazy(), torch.ones(1, 2)
    net(x)
    nn.init.normal_(net.scale)
    save(net, tmp_path / "net")
    assert torch.equal(load(tmp_path / "net", into=OwnLazy)(x), net(x))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.LazyConv1d(4, 3, groups=2), (2, 6, 8)),
        (lambda: nn.LazyConv3d(4, 3), (2, 5, 4, 4, 4)),
        (lambda: nn.LazyConvTranspose2d(6, 3, groups=3), (2, 9, 4, 4)),
        (lambda: nn.LazyBatchNorm3d(), (2, 5, 2, 2, 2)),
        (lambda: nn.LazyBatchNorm1d(affine=False), (3, 5)),
        (lambda: nn.LazyInstanceNorm2d(affine=True), (2, 5, 3, 3)),
    ],
)
def test_every_lazy_layer_becomes_what_it_was(tmp_path: Path, make, shape):
    net, x = make(), torch.randn(shape)
    net(x)
    save(net, tmp_path / "net")
    other = load(tmp_path / "net", into=make)
    assert repr(other) == repr(net)
    assert torch.equal(other.eval()(x), net.eval()(x))


# --- stacks


class Member(nn.Module):
    """Ties, batch statistics, a constant, a hidden layer and an extra state."""

    def __init__(self, width: int = 3):
        super().__init__()
        self.a = nn.Linear(2, width)
        self.b = nn.Linear(2, width)
        self.b.weight = self.a.weight
        self.again = self.a
        self.norm = nn.BatchNorm1d(width)
        self.hidden = [nn.Linear(width, 1)]
        self.constant = torch.randn(width)
        self.register_buffer("passing", torch.ones(2), persistent=False)

    def get_extra_state(self):
        return {"width": len(self.constant)}

    def set_extra_state(self, state):
        assert state["width"] == len(self.constant)

    def forward(self, x):
        return self.hidden[0](self.norm(self.a(x) + self.b(x) + self.again(x)) * self.constant)


def stack_of(widths: list[int], seed: int) -> ch.Stack:
    torch.manual_seed(seed)
    return ch.Stack([Member(width) for width in widths])


@pytest.mark.parametrize("widths", [[3, 3, 3], [3, 4, 3, 4, 3], [4, 4, 3]])
def test_a_stack_comes_back_bit_for_bit(tmp_path: Path, widths):
    stack, other = stack_of(widths, 0), stack_of(widths, 1)
    save(stack, tmp_path / "stack")
    x = torch.randn(5, 2)
    assert not torch.equal(other.eval()(x), stack.eval()(x))
    assert load(tmp_path / "stack", into=other) is other
    assert bits(other) == bits(stack)
    assert torch.equal(other(x), stack(x))
    names = {n: tuple(t.shape) for n, t in TensorFile(tmp_path / "stack").entries.items()}
    held = stack.state_dict().items()
    assert names == {n: tuple(t.shape) for n, t in held if n != "_extra_state"}


@pytest.mark.parametrize("widths", [[3, 3, 3], [3, 4, 3, 4, 3], [4, 4, 3]])
def test_each_member_is_loaded_into_a_plain_module(tmp_path: Path, widths):
    stack, x = stack_of(widths, 0), torch.randn(5, 2)
    stack(x)  # batch statistics move
    save(stack, tmp_path / "stack")
    stack.eval()
    for member, width in enumerate(widths):
        one = load(tmp_path / "stack", into=lambda width=width: Member(width), member=member)
        assert one.b.weight is one.a.weight
        assert bits(one) == bits(stack[member])
        assert torch.equal(one.eval()(x), stack[member](x))


def test_a_member_is_read_without_the_others(tmp_path: Path):
    stack = ch.Stack([nn.Linear(2, 100) for _ in range(50)])
    save(stack, tmp_path / "stack")
    content = bytearray((tmp_path / "stack").read_bytes())
    row = stack[7].weight.detach().numpy().tobytes()
    content[content.find(row) + 5] ^= 1
    (tmp_path / "stack").write_bytes(content)
    for member in (6, 8):
        assert bits(load(tmp_path / "stack", nn.Linear(2, 100), member)) == bits(stack[member])
    with pytest.raises(ch.CheckpointError, match=r"damaged: row 7 of groups.0 has changed"):
        load(tmp_path / "stack", nn.Linear(2, 100), member=7)


def test_members_without_tensors_are_loaded(tmp_path: Path):
    save(ch.Stack([nn.ReLU(), nn.Linear(1, 1)]), tmp_path / "stack")
    load(tmp_path / "stack", into=nn.ReLU(), member=0)


def test_members_and_stacks_that_do_not_fit_are_refused(tmp_path: Path):
    save(stack_of([3, 4, 3], 0), tmp_path / "stack")
    save(nn.Linear(2, 2), tmp_path / "net")
    for call, error, said in [
        (lambda: load(tmp_path / "stack", Member()), ValueError, "say which member"),
        (lambda: load(tmp_path / "stack", Member(), 3), ValueError, "members 0 to 2, got 3"),
        (lambda: load(tmp_path / "stack", Member(), -1), ValueError, "members 0 to 2, got -1"),
        (lambda: load(tmp_path / "net", nn.Linear(2, 2), 0), ValueError, "holds one module"),
        (lambda: load(tmp_path / "net", stack_of([3], 0)), ValueError, "stack\\[i\\]"),
        (lambda: load(tmp_path / "stack", stack_of([3], 0), 0), ValueError, "into a plain module"),
        (lambda: load(tmp_path / "stack", Member(), 1), ch.CheckpointError, "does not fit"),
        (
            lambda: load(tmp_path / "stack", stack_of([3, 3, 4], 0)),
            ch.CheckpointError,
            "'a.weight' of its members is float32 .3, 2. and float32 .4, 2.",
        ),
        (
            lambda: load(tmp_path / "stack", stack_of([3, 3, 4, 4], 0)),
            ch.CheckpointError,
            "its members are 0 to 2 in steps of 2, 1, those of `into` 0 to 1, 2 to 3",
        ),
    ]:
        with pytest.raises(error, match=said):
            call()


class Half(Extra):
    """Kinds of tensors that cannot all be indexed; ``way`` parts members into groups."""

    def __init__(self, way, state="plain", seed=0):
        super().__init__(state)
        self.way = (way,)
        made = torch.Generator().manual_seed(seed)
        for name, dtype in (("eight", torch.float8_e4m3fn), ("wide", torch.complex128)):
            self.register_buffer(name, torch.randn(2, 3, generator=made).to(dtype))
        self.register_buffer("flag", torch.tensor(seed % 2 == 0))
        self.register_buffer("none", torch.zeros(0, 4))
        self.plain = torch.randn(2, generator=made)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(3, 2, generator=made))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=6))
def test_a_stack_is_loaded_by_member_whatever_its_groups(tmp_path: Path, ways):
    stack = ch.Stack([Half(way, f"state {i % 2}", i) for i, (way, _) in enumerate(ways)])
    other = ch.Stack([Half(way, "mine", 100 + i) for i, (_, way) in enumerate(ways)])
    save(stack, tmp_path / "stack")
    load(tmp_path / "stack", into=other)
    for i, (_, way) in enumerate(ways):
        assert bits(other[i]) == bits(stack[i])
        assert torch.equal(other[i].plain, stack[i].plain)
        assert (other[i].state, other[i].way) == (f"state {i % 2}", (way,))


def test_members_of_other_extra_states_are_one_group_no_more(tmp_path: Path):
    stack = ch.Stack([Extra(i) for i in range(3)])
    other = ch.Stack([Extra(7) for _ in range(3)])
    assert [len(list(stack.parts())), len(list(other.parts()))] == [3, 1]
    save(stack, tmp_path / "stack")
    load(tmp_path / "stack", into=other)
    assert [other[i].state for i in range(3)] == [0, 1, 2]
    save(other, tmp_path / "other")
    load(tmp_path / "other", into=stack)
    assert bits(stack[2]) == bits(other[2])


def test_a_stack_in_other_groups_goes_by_names(tmp_path: Path):
    def member(way, *, tied=False, more=()):
        net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
        if tied:
            net["b"].weight = net["a"].weight
        for name in more:
            net.register_buffer(name, torch.full((3,), 5.0))
        net.way = (way,)
        return net

    def stack(*ways, **what):
        return ch.Stack([member(way, **what) for way in ways])

    one = stack(0, 1, 0, more=["x", "y"])
    save(one, tmp_path / "one")
    with pytest.raises(ch.CheckpointError, match=r"holds groups.0.y, groups.1.y, unknown to"):
        load(tmp_path / "one", stack(0, 0, 1, more=["x"]))
    with pytest.raises(ch.CheckpointError, match=r"lacks groups.0.z, groups.1.z and holds"):
        load(tmp_path / "one", stack(0, 0, 1, more=["z"]))
    into = stack(0, 0, 1, more=["x", "z"])
    with pytest.warns(ch.ChimeraWarning, match=r"lacks groups.0.z, .*holds groups.0.y, groups.1.y"):
        load(tmp_path / "one", into, strict=False)
    assert all(torch.equal(into[i]["b"].weight, one[i]["b"].weight) for i in range(3))

    tied = stack(0, 1, 0, tied=True)
    save(tied, tmp_path / "tied")
    into = stack(1, 1, 0)
    with pytest.warns(ch.ChimeraWarning, match="ties what `into` keeps apart"):
        load(tmp_path / "tied", into)
    assert all(torch.equal(into[i]["b"].weight, tied[i]["a"].weight) for i in range(3))
    before = bits(into := stack(1, 1, 0, tied=True))
    save(stack(0, 1, 0), tmp_path / "apart")
    with pytest.raises(ch.CheckpointError, match="are one tensor in `into` and two different"):
        load(tmp_path / "apart", into)
    assert bits(into) == before


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12))
def test_runs_give_every_id_its_place(ids):
    found = runs(ids)
    for id_ in range(-2, 33):
        place = row_of(found, id_)
        assert (place is None) is (id_ not in ids)
        if place is not None:
            assert ids[place] == id_


def test_runs_are_few():
    assert runs(list(range(1000))) == [[0, 1, 1000]]
    assert runs(list(range(1, 1000, 3))) == [[1, 3, 333]]


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (3, TypeError, "path must be the path of a file, got 3"),
        (None, TypeError, "path must be the path of a file, got None"),
        ("", ValueError, "path is empty, expected the path of a file"),
    ],
)
def test_what_is_no_path_is_told(path, error, message):
    net = nn.Linear(2, 2)
    with pytest.raises(error, match=message):
        save(net, path)
    with pytest.raises(error, match=message):
        load(path, into=net)


def test_a_class_that_needs_arguments_is_told(tmp_path: Path):
    save(nn.Linear(2, 2), tmp_path / "net")
    with pytest.raises(TypeError, match=r"into: Linear cannot be called without arguments .*in_f"):
        load(tmp_path / "net", into=nn.Linear)

    def fails() -> nn.Module:
        raise TypeError("its own error")

    with pytest.raises(TypeError, match="its own error"):
        load(tmp_path / "net", into=fails)


class Turned(nn.Module):
    """Since its second version the weight lies the other way; older states are turned."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if (local_metadata.get("version") or 1) < 2:
            state_dict[prefix + "weight"] = state_dict[prefix + "weight"].t()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_a_state_of_this_version_is_not_taken_for_an_old_one(tmp_path: Path):
    net, other = (nn.Sequential(nn.Linear(2, 2), Turned(), nn.BatchNorm1d(3)) for _ in range(2))
    save(net, tmp_path / "f")
    load(tmp_path / "f", into=other)
    assert torch.equal(net[1].weight, other[1].weight)
    members = [Turned(), Turned()]
    save(ch.Stack(members), tmp_path / "s")
    one = load(tmp_path / "s", into=Turned, member=1)
    assert torch.equal(one.weight, members[1].weight)
    stack = load(tmp_path / "s", into=ch.Stack([Turned(), Turned()]))
    assert torch.equal(stack[0].weight, members[0].weight)


def test_a_state_of_an_older_version_is_turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Turned, "_version", 1)
    old = Turned()
    save(old, tmp_path / "f")
    monkeypatch.undo()
    assert torch.equal(load(tmp_path / "f", into=Turned).weight, old.weight.t())


@pytest.mark.parametrize("held", [None, torch.ones(0), torch.ones(2, 2), {"a": 1}])
def test_an_extra_state_is_its_modules_own_to_take_over(tmp_path: Path, held):
    save(Extra(torch.arange(5)), tmp_path / "f")
    loaded = load(tmp_path / "f", into=Extra(held))
    assert torch.equal(loaded.state, torch.arange(5))


def test_a_module_without_memory_is_refused(tmp_path: Path):
    save(nn.Linear(2, 3), tmp_path / "f")
    net = nn.Linear(2, 3, device="meta")
    with pytest.raises(ch.CheckpointError, match=r"is on the meta device.*to_empty"):
        load(tmp_path / "f", into=net)
    with pytest.raises(ch.CheckpointError, match="meta device"):
        load(tmp_path / "f", into=lambda: nn.Linear(2, 3, device="meta"))
    assert net.weight.is_meta
    net.to_empty(device="cpu")
    load(tmp_path / "f", into=net)


@pytest.mark.parametrize(
    "tensor",
    [torch.arange(4.0)[1::4], torch.ones(3, 3).t()[1:2, 1:2], torch.tensor([1 + 2j]).conj().imag],
    ids=["strided", "transposed", "negative"],
)
def test_one_number_comes_back_however_it_lay(tmp_path: Path, tensor):
    held = nn.Module()
    held.register_buffer("one", tensor)
    save(held, tmp_path / "f")
    other = nn.Module()
    other.register_buffer("one", torch.zeros_like(tensor))
    assert torch.equal(load(tmp_path / "f", into=other).one, tensor)
