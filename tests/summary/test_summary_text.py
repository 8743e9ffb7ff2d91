"""Printed trees, compared with golden files: ``pytest --rewrite-golden`` writes them anew."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

import chimera as ch

GOLDEN = Path(__file__).parent / "golden"
TOKENS = ch.spec(2, 9, dtype=torch.int64)


class Wrong(nn.Module):
    """Everything worth a note: a lost layer, a layer that runs twice, one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(8, 8)
        self.never = nn.Conv2d(1, 1, 3)
        self.lost = [nn.Linear(8, 8)]

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.twice(torch.relu(self.twice(x)))
        return {"scores": self.lost[0](x), "kept": x * mask}


def compared(name: str, text: str, request: pytest.FixtureRequest) -> None:
    """``text`` is what the golden file of that name holds, or becomes it."""
    file = GOLDEN / name
    if request.config.getoption("--rewrite-golden"):
        file.write_text(text + "\n")
    assert text + "\n" == file.read_text(), f"{file.name}: pytest --rewrite-golden accepts the new"


def test_blocks_fold_and_ties_show(language: nn.Module, request: pytest.FixtureRequest) -> None:
    compared("language.txt", str(ch.summary(language, TOKENS)), request)


def test_branches(branched: nn.Module, request: pytest.FixtureRequest) -> None:
    report = ch.summary(branched, ch.spec(2, 3, 16, 16))
    compared("branches.txt", str(report), request)
    compared("branches.md", report.to_markdown(), request)


def test_notes_stand_below_their_lines(request: pytest.FixtureRequest) -> None:
    spec = ch.inputs(ch.spec("batch", 8), mask=ch.spec("batch", 8, dtype=torch.bool))
    compared("notes.txt", str(ch.summary(Wrong(), spec)), request)


def deep() -> nn.Module:
    net: nn.Module = nn.Linear(4, 4)
    for depth in range(20):
        net = nn.Sequential(nn.Conv2d(1, 1, 1) if depth % 2 else nn.Identity(), net)
    return net


@pytest.mark.parametrize("width", [80, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int, language: nn.Module) -> None:
    for net, spec in ((language, TOKENS), (deep(), ch.spec(1, 1, 4, 4))):
        report = ch.summary(net, spec)
        text = io.StringIO()
        Console(file=text, width=width, force_terminal=False).print(report)
        lines = text.getvalue().splitlines()
        assert max(map(len, lines)) <= min(width, 120)
        if width == 80:
            assert lines == str(report).splitlines()


def test_colour_unless_there_shall_be_none(
    language: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = ch.summary(language, TOKENS)

    def printed() -> str:
        text = io.StringIO()
        Console(file=text, width=80, force_terminal=True).print(report)
        return text.getvalue()

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[36m" in printed()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[36m" not in printed()
    assert "\x1b" not in str(report)
