import copy
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from chimera.paths.nest import flatten
from chimera.paths.shared import link, shared

Pair = namedtuple("Pair", "a b")


@dataclass
class Fields:
    kept: object


class Plain:
    def __init__(self, kept):
        self.kept = kept


def anew(holder):
    """Every value in containers of its own, as a call that is undone leaves them."""
    made = {}
    for name, value in holder.items():
        leaves, shape = flatten(value, objects=True)
        made[name] = shape.rebuild(leaves)
    return made


def test_what_stands_once_is_not_shared():
    assert shared([{"a": [1], "b": [1]}, {"a": (), "c": {"x": 1}}]) == ()


def test_numbers_and_tuples_are_not_shared():
    pair = (1, 2)
    assert shared([{"a": pair, "b": pair}, {"c": 5, "d": "x"}]) == ()


def test_the_outer_one_alone():
    inner = [1]
    outer = {"x": inner}
    assert shared([{"a": outer}, {"b": outer}]) == (((0, "a", ()), (1, "b", ())),)


def test_what_contains_itself_ends():
    loop = [1]
    loop.append(loop)
    assert shared([{"a": loop, "b": loop}]) == (((0, "a", ()), (0, "b", ())),)


def test_linked_again_in_every_kind_of_container():
    kept = [0]
    wraps = [
        [kept],
        {"k": kept},
        OrderedDict(k=kept),
        deque([kept]),
        (1, kept),
        Pair(2, kept),
        Fields(kept),
        Plain(kept),
        [[(3, {"deep": kept})]],
    ]
    holder = {"first": kept, **{f"w{i}": wrap for i, wrap in enumerate(wraps)}}
    links = shared([holder])
    assert len(links) == 1
    assert len(links[0]) == 1 + len(wraps)
    again = anew(holder)
    assert shared([again]) == ()
    link([again], links)
    assert shared([again]) == links
    again["first"].append(1)
    assert again["w4"] == (1, [0, 1])
    assert again["w5"].b == again["w6"].kept == again["w7"].kept == [0, 1]
    assert again["w8"][0][0][1]["deep"] is again["first"]


pools = st.lists(st.integers(0, 3), min_size=1, max_size=4)


@given(st.lists(pools, min_size=1, max_size=5), st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_links_of_any_sharing_hold_after_a_rebuild(contents, names):
    containers: list[object] = []
    for content in contents:
        containers.append([containers[i] if i < len(containers) else i for i in content])
    holders = [{f"n{i}": containers[n % len(containers)] for i, n in enumerate(names)}]
    links = shared(holders)
    again = [anew(holder) for holder in holders]
    link(again, links)
    assert shared(again) == links
    assert again == holders
    assert shared(copy.deepcopy(holders)) == links
