"""``flatten`` and ``rebuild`` are inverses, for every container that people use."""

import argparse
import collections
import dataclasses
import enum
import threading
import typing
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chimera.paths.nest import LEAF, flatten, leaf_names, map_leaves, tensors_in

Pair = collections.namedtuple("Pair", "left right")


class Typed(typing.NamedTuple):
    one: object
    two: object = 2


@dataclasses.dataclass
class Data:
    a: object
    b: object = None


@dataclasses.dataclass(frozen=True)
class FrozenData:
    a: object


@dataclasses.dataclass(slots=True)
class SlotData:
    a: object
    b: object


@dataclasses.dataclass
class NoInit:
    a: object = dataclasses.field(init=False, default=3)

    def __post_init__(self):
        raise AssertionError("rebuilding runs no code of the class")


@dataclasses.dataclass
class Output(collections.OrderedDict):
    logits: object = None
    loss: object = None

    def __post_init__(self):
        for name in ("logits", "loss"):
            if getattr(self, name) is not None:
                self[name] = getattr(self, name)


class Plain:
    def __init__(self, **values):
        self.__dict__.update(values)

    def __eq__(self, other):
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None


class Color(enum.Enum):
    RED = 1


leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.floats())
keys = st.one_of(st.text(max_size=3), st.integers(), st.tuples(st.integers(), st.booleans()))


def _containers(inner):
    pair = st.tuples(inner, inner)
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.dictionaries(keys, inner, max_size=3).map(collections.OrderedDict),
        st.dictionaries(keys, inner, max_size=3).map(lambda d: collections.defaultdict(list, d)),
        st.dictionaries(keys, inner, max_size=3).map(collections.Counter),
        st.lists(inner, max_size=3).map(lambda x: collections.deque(x, maxlen=5)),
        pair.map(lambda p: Pair(*p)),
        pair.map(lambda p: Typed(*p)),
        pair.map(lambda p: Data(*p)),
        pair.map(lambda p: SlotData(*p)),
        inner.map(FrozenData),
        inner.map(lambda v: Output(logits=v)),
    )


nests = st.recursive(leaves, _containers, max_leaves=12)


def alike(one, other):
    """Equal, containers of the same classes, nan like nan."""
    return repr(one) == repr(other) and type(one) is type(other)


@given(nests)
def test_rebuild_is_the_inverse_of_flatten(value):
    found, shape = flatten(value)
    again = shape.rebuild(found)
    assert alike(again, value)
    assert shape.size == len(found)
    assert flatten(again)[1] == shape
    assert hash(shape) == hash(flatten(again)[1])


@given(nests, nests)
def test_shapes_are_equal_where_values_nest_alike(one, other):
    (a, shape_a), (b, shape_b) = flatten(one), flatten(other)
    if shape_a == shape_b:
        assert len(a) == len(b)
        assert alike(shape_a.rebuild(b), other)


@given(nests)
def test_names_are_as_many_as_leaves_and_lead_to_them(value):
    found, shape = flatten(value)
    names = leaf_names(shape, "value")
    assert len(names) == len(found)
    for name, leaf in zip(names, found, strict=True):
        if "deque" not in repr(value):
            assert eval(name, {"value": value}) is leaf or alike(eval(name, {"value": value}), leaf)


@given(nests, st.booleans())
def test_tensors_are_those_among_the_leaves(value, objects):
    nested = {"one": map_leaves(lambda leaf: torch.ones(1) if leaf is None else leaf, value)}
    nested["plain"] = Plain(inside=(torch.ones(2), nested["one"]))
    found = [leaf for leaf in flatten(nested, objects=objects)[0] if isinstance(leaf, torch.Tensor)]
    assert list(map(id, tensors_in(nested, objects=objects))) == list(map(id, found))


@given(nests)
def test_a_map_keeps_the_nest(value):
    assert alike(map_leaves(lambda leaf: leaf, value), value)
    counted = flatten(map_leaves(lambda leaf: 1, value))
    assert counted[1].size == sum(counted[0])


@given(st.one_of(st.sets(leaves, max_size=4), st.frozensets(leaves, max_size=4)))
def test_sets_are_all_shape(value):
    found, shape = flatten(value)
    assert found == []
    again = shape.rebuild([])
    assert type(again) is type(value)
    assert sorted(map(repr, again)) == sorted(map(repr, value))
    assert flatten([value, 3])[1] == flatten([set(value) if type(value) is set else value, 4])[1]


def test_containers_are_new_and_leaves_are_the_same():
    leaf = object()
    value = [{"a": (leaf, Data([leaf]))}]
    again = map_leaves(lambda x: x, value)
    assert again is not value
    assert again[0]["a"][1].a is not value[0]["a"][1].a
    assert again[0]["a"][0] is leaf


def test_rebuilding_runs_no_code_of_a_dataclass():
    value = object.__new__(NoInit)
    value.a = 7
    found, shape = flatten(value)
    assert found == [7]
    assert shape.rebuild([8]).a == 8


def test_details_of_containers_are_kept():
    deque = map_leaves(lambda x: x, collections.deque([1, 2], maxlen=2))
    deque.append(3)
    assert list(deque) == [2, 3]
    table = map_leaves(lambda x: x, collections.defaultdict(list, a=1))
    assert table["new"] == []
    ordered = map_leaves(lambda x: x, collections.OrderedDict(b=1, a=2))
    assert list(ordered) == ["b", "a"]
    counter = map_leaves(lambda x: x + 1, collections.Counter("aab"))
    assert counter == {"a": 3, "b": 2}
    assert counter["none"] == 0
    assert map_leaves(lambda x: x, torch.ones(2, 3).max(dim=0)).indices.shape == (3,)


def test_a_dataclass_that_is_a_dict():
    found, shape = flatten(Output(logits=1))
    assert found == [1, None]
    again = shape.rebuild(["new", None])
    assert again.logits == again["logits"] == "new"
    assert list(again) == ["logits"]
    assert again.loss is None
    broken = Output(logits=1)
    broken["other"] = 2
    assert flatten(broken)[1] is LEAF


@pytest.mark.parametrize(
    "leaf",
    [
        *(torch.ones(2), torch.Size([1, 2]), torch.float32, torch.device("cpu")),
        *(Color.RED, Data, Pair, print, slice(2), range(3), "text", b"bytes", threading.Lock()),
        *({(1, 2)}, {torch.ones(1)}, torch.nn.Linear(1, 1), torch.nn.ParameterList()),
        *(Plain(a=1), SimpleNamespace(a=1), iter([1])),
    ],
    ids=lambda leaf: type(leaf).__name__,
)
def test_leaves(leaf):
    found, shape = flatten(leaf)
    assert shape is LEAF
    assert found[0] is leaf
    assert leaf_names(shape, "x") == ["x"]


def test_subclasses_of_containers_are_leaves():
    class MyList(list):
        pass

    class MyDict(dict):
        pass

    for value in (MyList([1]), MyDict(a=1)):
        assert flatten(value)[1] is LEAF
        assert flatten(value, objects=True)[1] is LEAF


class Slotted:
    __slots__ = ("__dict__", "a")


class OwnState:
    def __getstate__(self):
        return {}


class OwnNew:
    def __new__(cls):
        return super().__new__(cls)


class TestObjects:
    @pytest.mark.parametrize(
        "value",
        [Plain(a=1, b=[Plain(c=2)]), SimpleNamespace(a=1), argparse.Namespace(x=(1, 2)), Plain()],
    )
    def test_plain_objects_nest_by_what_they_hold(self, value):
        found, shape = flatten(value, objects=True)
        again = shape.rebuild(found)
        assert again == value
        assert again is not value
        assert type(again) is type(value)
        named = zip(leaf_names(shape, "v"), found, strict=True)
        assert all(eval(name, {"v": value}) == leaf for name, leaf in named)

    @pytest.mark.parametrize(
        "value",
        [
            *(Slotted(), OwnState(), OwnNew(), Color.RED, ValueError("a"), threading.Event),
            *(torch.nn.Linear(1, 1), torch.ones(1), torch.Generator(), print, lambda: 1),
        ],
    )
    def test_what_may_hold_more_is_a_leaf(self, value):
        assert flatten(value, objects=True)[1] is LEAF

    def test_a_dataclass_with_more_than_its_fields(self):
        value = Data(1, 2)
        value.more = 3
        assert flatten(value)[1] is LEAF
        found, shape = flatten(value, objects=True)
        assert found == [1, 2, 3]
        assert shape.rebuild(found).more == 3

    def test_an_attribute_that_a_property_hides(self):
        class Hides:
            @property
            def a(self):
                raise AssertionError

        value = Hides()
        value.__dict__["a"] = 1
        found, shape = flatten(value, objects=True)
        assert found == [1]
        assert shape.rebuild([2]).__dict__ == {"a": 2}


def test_what_contains_itself_ends_there():
    value = [1]
    value.append(value)
    found, shape = flatten(value)
    assert found[0] == 1
    assert found[1] is value
    assert shape.size == 2
    owner = Plain(name="a")
    owner.owner = owner
    found, _ = flatten(owner, objects=True)
    assert found[0] == "a"
    assert found[1] is owner
    twice = [1]
    assert flatten([twice, twice])[0] == [1, 1]


def test_too_few_leaves():
    with pytest.raises(AssertionError, match="2 leaves expected, got 1"):
        flatten([1, 2])[1].rebuild([1])


def test_names_of_leaves():
    value = {"a": [1, Data(2)], 3: Pair(4, {"x.y": 5})}
    assert leaf_names(flatten(value)[1], "t") == [
        *("t['a'][0]", "t['a'][1].a", "t['a'][1].b", "t[3][0]", "t[3][1]['x.y']")
    ]
