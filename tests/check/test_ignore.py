"""``# chimera: ignore[rule]``: which lines speak for which findings."""

import importlib.util
import itertools
import sys
import textwrap
from pathlib import Path

import pytest

import chimera as ch

_HEAD = """\
import dataclasses

import torch
from torch import nn


def unchanged(kind):
    return kind


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)

    def forward(self, x):
        return self.b(self.a(x))


"""


_COUNT = itertools.count()


def found(text: str, tmp_path: Path) -> list[str]:
    """The rules of what is found in ``Net`` of a file."""
    name = f"ignored_{next(_COUNT)}"
    path = tmp_path / f"{name}.py"
    path.write_text(_HEAD + textwrap.dedent(text))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        return [finding.rule for finding in ch.check(module.Net, ch.spec("batch", 4))]
    finally:
        del sys.modules[spec.name]


LAYERS = {
    "on the line": """
        class Net(Twice):
            def __init__(self):
                super().__init__()
                self.b = nn.Linear(4, 4){}
        """,
    "above the line": """
        class Net(Twice):
            def __init__(self):
                super().__init__()
                {}
                self.b = nn.Linear(4, 4)
        """,
    "on the last of several lines": """
        class Net(Twice):
            def __init__(self):
                super().__init__()
                self.b = nn.Linear(
                    4,
                    4,
                ){}
        """,
    "on its own line of a Sequential": """
        class Net(nn.Sequential):
            def __init__(self):
                super().__init__()
                self.net = nn.Sequential(
                    nn.Linear(4, 4),
                    nn.Linear(4, 4),{}
                )
        """,
    "on what holds it": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = Twice(){}

            def forward(self, x):
                return self.net(x)
        """,
    "on the class": """
        class Net(Twice):{}
            def forward(self, x):
                return super().forward(x)
        """,
    "on a class without methods": """
        class Net(Twice):{}
            pass
        """,
    "on a class of one line": """
        class Net(Twice): pass{}
        """,
    "above the class": """
        {}
        class Net(Twice):
            pass
        """,
    "on a class of several lines": """
        class Net(
            Twice,
        ):{}
            kinds = {{"a": 1}}
        """,
    "on a decorated class": """
        @unchanged
        class Net(Twice):{}
            kinds = ()
        """,
    "on the decorator": """
        @unchanged{}
        class Net(Twice):
            kinds = ()
        """,
    "on a dataclass": """
        @dataclasses.dataclass(eq=False)
        class Net(Twice):{}
            width: int = 4

            def __post_init__(self):
                super().__init__()
        """,
    "on a dataclass without methods": """
        class Base(Twice):
            def __post_init__(self):
                super().__init__()


        @dataclasses.dataclass(eq=False)
        class Net(Base):{}
            width: int = 4
        """,
    "on the constructor": """
        class Net(Twice):
            def __init__(self):{}
                super().__init__()
                self.b = nn.Linear(4, 4)
        """,
    "of several rules": """
        class Net(Twice):{}
            pass
        """,
}

ASKS = "  # chimera: ignore[linear-after-linear]"


@pytest.mark.parametrize("name", LAYERS)
def test_a_comment_is_heeded(name: str, tmp_path: Path) -> None:
    text = LAYERS[name]
    assert found(text.format(""), tmp_path) == ["linear-after-linear"]
    alone = "above" in name
    assert found(text.format(ASKS.strip() if alone else ASKS), tmp_path) == []
    other = ASKS.replace("linear-after", "nothing-after")
    assert found(text.format(other.strip() if alone else other), tmp_path) == [
        "linear-after-linear"
    ]


@pytest.mark.parametrize(
    "comment",
    [
        "# chimera: ignore[never-called, linear-after-linear]",
        "# chimera: ignore[never-called,linear-after-linear] as published",
        "# chimera: ignore[never-called]  # chimera: ignore[linear-after-linear]",
        "# type: ignore  # chimera: ignore[linear-after-linear]",
        "#chimera:ignore[ linear-after-linear ]",
    ],
)
def test_several_rules_and_comments_stand_on_one_line(comment: str, tmp_path: Path) -> None:
    assert found(LAYERS["on the class"].format(f"  {comment}"), tmp_path) == []


def test_a_layer_beside_it_is_not_spoken_for(tmp_path: Path) -> None:
    text = """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = nn.Sequential(
                    nn.Linear(4, 4),
                    nn.Linear(4, 4),  # chimera: ignore[linear-after-linear]
                    nn.Linear(4, 4),
                )

            def forward(self, x):
                return self.net(x)
        """
    assert found(text, tmp_path) == ["linear-after-linear"]


def test_a_line_below_it_is_not_spoken_for(tmp_path: Path) -> None:
    text = """
        class Net(Twice):
            def __init__(self):
                super().__init__()
                self.a = nn.Linear(4, 4)  # chimera: ignore[linear-after-linear]
                self.b = nn.Linear(4, 4)
        """
    assert found(text, tmp_path) == ["linear-after-linear"]


def test_two_classes_of_one_name_without_methods_are_not_told_apart(tmp_path: Path) -> None:
    text = """
        class Net(Twice):  # chimera: ignore[linear-after-linear]
            pass


        class Net(Twice):
            pass
        """
    assert found(text, tmp_path) == ["linear-after-linear"]
