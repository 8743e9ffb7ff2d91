from typing import Any, Literal

import pytest

from chimera.cli.in_turn import InTurn
from chimera.cli.mistake import Mistake
from chimera.cli.settings import check_settings, read_settings


class Net:
    def __init__(
        self,
        hidden: int,
        dropout: float = 0.0,
        bias: bool = True,
        activation: str = "relu",
        norm: Literal["batch", "layer"] | None = None,
        sizes: list[int] | tuple[int, ...] = (),
        anything: Any = None,
    ) -> None: ...


class Bare:
    def __init__(self, width, p=0.5, flag=False, extra=None): ...  # type: ignore[no-untyped-def]


class Loose:
    def __init__(self, **options: int) -> None: ...


def checked(constructor: Any, *pairs: str) -> dict[str, Any]:
    return check_settings(constructor, read_settings(pairs))


def mistake(constructor: Any, *pairs: str) -> str:
    with pytest.raises(Mistake) as caught:
        checked(constructor, *pairs)
    return str(caught.value)


def test_values_are_literals_of_the_annotated_types() -> None:
    assert checked(
        Net,
        "hidden=32",
        "dropout=1",
        "bias=False",
        "activation=tanh",
        "norm=batch",
        "sizes=[1, 2]",
        "anything={'a': 1}",
    ) == {
        "hidden": 32,
        "dropout": 1,
        "bias": False,
        "activation": "tanh",
        "norm": "batch",
        "sizes": [1, 2],
        "anything": {"a": 1},
    }


def test_a_string_may_look_like_a_number_or_be_quoted() -> None:
    assert checked(Net, "hidden=1", "activation=12")["activation"] == "12"
    assert checked(Net, "hidden=1", "activation='a b'")["activation"] == "a b"
    assert checked(Net, "hidden=1", "activation=a=b")["activation"] == "a=b"


def test_none_and_tuples() -> None:
    assert checked(Net, "hidden=1", "norm=None", "sizes=(3, 4)") == {
        "hidden": 1,
        "norm": None,
        "sizes": (3, 4),
    }


def test_without_annotations_a_default_tells_numbers_from_strings() -> None:
    assert checked(Bare, "width=x", "p=1", "flag=True", "extra=y") == {
        "width": "x",
        "p": 1,
        "flag": True,
        "extra": "y",
    }
    assert "expects p to be a number, got 'high', which is a string" in mistake(
        Bare, "width=1", "p=high"
    )
    assert "expects flag to be True or False, got 'true', which is a string" in mistake(
        Bare, "width=1", "flag=true"
    )


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        ("hidden=wide", "a whole number, got 'wide', which is a string"),
        ("hidden=3.5", "a whole number, got 3.5, which is a number with a fraction"),
        ("hidden=True", "a whole number, got True, which is a truth value"),
        ("dropout=half", "a number, got 'half', which is a string"),
        ("bias=1", "True or False, got 1, which is a whole number"),
        ("norm=group", "one of 'batch', 'layer' or None, got 'group', which is a string"),
        ("sizes=3", "list or tuple, got 3, which is a whole number"),
    ],
)
def test_a_value_of_the_wrong_type(pair: str, told: str) -> None:
    pairs = [pair] if pair.startswith("hidden") else ["hidden=1", pair]
    key = pair.partition("=")[0]
    assert mistake(Net, *pairs) == f"--set {pair}: Net expects {key} to be {told}"


def test_an_unknown_name_lists_the_known() -> None:
    assert mistake(Net, "hiden=3") == (
        "--set hiden: Net has no such argument; expected one of activation, anything, bias, "
        "dropout, hidden, norm, sizes"
    )


def test_what_comes_from_elsewhere_cannot_be_set() -> None:
    with pytest.raises(Mistake, match="hidden: Net has no such argument; expected one of activ"):
        check_settings(Net, {"hidden": "3"}, given=("hidden",))
    assert check_settings(Net, {}, given=("hidden",)) == {}


def test_a_constructor_without_arguments() -> None:
    class Empty: ...

    assert mistake(Empty, "a=1") == "--set a: Empty has no such argument; it takes none"
    assert checked(Empty) == {}


def test_any_name_where_the_constructor_takes_any() -> None:
    assert checked(Loose, "a=1", "b=c") == {"a": 1, "b": "c"}


def test_a_missing_argument() -> None:
    assert mistake(Net) == "Net needs hidden: give --set hidden=VALUE"


@pytest.mark.parametrize("pair", ["hidden", "=3", "3x=1", ""])
def test_what_is_no_pair(pair: str) -> None:
    assert mistake(Net, pair) == f"--set {pair}: expected key=value, as in --set hidden=32"


def test_a_name_twice() -> None:
    assert mistake(Net, "hidden=1", "hidden=2") == "--set hidden is given twice: '1' and '2'"


def test_values_in_turn() -> None:
    assert checked(Net, "hidden=32,64") == {"hidden": InTurn((32, 64))}
    assert checked(Net, "hidden=3", "sizes=(1,2),[3, 4],()")["sizes"] == InTurn(
        ((1, 2), [3, 4], ())
    )
    assert checked(Net, "hidden=3", "sizes=(1,2)")["sizes"] == (1, 2)


def test_every_value_in_turn_is_checked() -> None:
    assert "got 2.5, which is a number with a fraction" in mistake(Net, "hidden=32,2.5")
    assert mistake(Net, "hidden=32,") == (
        "--set hidden=32,: expected a value between commas, for the members in turn; a tuple is "
        "written --set 'hidden=(32,)'"
    )


def test_an_annotation_that_cannot_be_evaluated_is_not_looked_at() -> None:
    class Odd:
        def __init__(self, width: "Missing", depth: int = 1) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert checked(Odd, "width=3", "depth=2") == {"width": 3, "depth": 2}
