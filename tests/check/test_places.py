"""Where the source makes a module: the line that findings point to and comments speak from."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import chimera as ch
from chimera.build.construct import construct_without_data
from chimera.check.context import Context
from chimera.check.places import Places

sys.path.insert(0, str(Path(__file__).parent / "places"))

import placed_nets

sys.path.pop(0)

HERE = Path(__file__).parent / "places"
_MARK = re.compile(r"# (\w+): ([\w. ]+)$")

MADE = [
    (found[1], "" if path == "root" else path, file.name, number)
    for file in sorted(HERE.glob("*.py"))
    for number, line in enumerate(file.read_text().splitlines(), 1)
    if (found := _MARK.search(line))
    for path in found[2].split()
]


def places(name: str) -> Places:
    factory = getattr(placed_nets, name)
    return Places(Context(construct_without_data(factory), factory=factory))


def test_all_are_marked() -> None:
    assert len(MADE) > 50


@pytest.mark.parametrize(("name", "path", "file", "line"), MADE)
def test_the_line_that_makes_a_module(name: str, path: str, file: str, line: int) -> None:
    found = places(name).of(path)
    assert found is not None
    assert (Path(found[0].path).name, found[1]) == (file, line)


@pytest.mark.parametrize(
    ("name", "path"),
    [("Unknown", "twice"), ("Unknown", "none.such"), ("chain", "")],
)
def test_no_line_where_several_may_have_made_it(name: str, path: str) -> None:
    assert places(name).of(path) is None or (name, path) == ("chain", "")


def test_a_module_given_as_it_is_has_lines_too() -> None:
    findings = ch.check(placed_nets.Nested(), ch.spec("batch", 4), ignore=["never-called"])
    assert findings == []
    (finding,) = [
        f for f in ch.check(Twice(), ch.spec("batch", 4)) if f.rule == "linear-after-linear"
    ]
    text = Path(__file__).read_text().splitlines()
    assert finding.file == __file__
    assert "this one" in text[finding.line - 1]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)  # this one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


def test_a_layer_of_another_class_than_the_source_says_has_no_line() -> None:
    net = Twice()
    net.b = nn.Sequential(nn.Linear(4, 4))
    trail = Places(Context(net))
    assert trail.of("b") is None
    assert trail.of("b.0") is None
    assert trail.of("a") is not None
