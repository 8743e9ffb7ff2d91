"""Every example of the documentation runs and shows what it says.

In a page, ``>>>`` examples share one namespace; a Python block with a title is a file of that name
beside them; a line ``$ chimera ...`` of a console block is run, and what it prints on standard
output and standard error is compared. Where networks are trained, the digits of numbers that depend
on the machine or its speed are not compared: the words, the layout and the kinds of numbers are.
"""

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from chimera.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
TITLED = re.compile(r'python title="(?P<name>[^"]+)"$')


def run(line: str) -> str:
    """What a command prints, standard error among it."""
    words = shlex.split(line)
    if words[0] != "chimera":
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": path}
        done = subprocess.run(
            line, shell=True, capture_output=True, text=True, check=True, env=environment
        )
        return done.stdout
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        main(words[1:])
    return printed.getvalue()


def comparable(line: str, output: str) -> list[str]:
    """The words of ``output`` without what the machine decides."""
    if not line.startswith("chimera fit digits"):
        return [text.rstrip() for text in output.strip().splitlines()]
    text = re.sub(r"─+", "─", NUMBER.sub("#", output))
    return re.sub(r"# m?s\b", "# s", text).split()


def commands(source: str) -> Iterator[tuple[str, str, str]]:
    """Each command of a console block: as it is typed, on one line, and the output shown."""
    for part in re.split(r"^\$ ", source, flags=re.MULTILINE)[1:]:
        typed, _, output = re.sub(r"\\\n", "\0", part).partition("\n")
        yield typed.replace("\0", "\\\n"), re.sub(r"\0\s*", "", typed), output


def console(example: Example) -> None:
    for _, command, shown in commands(example.parsed):
        printed = run(command)
        if comparable(command, printed) != comparable(command, shown):
            raise AssertionError(f"$ {command}\nprints\n{printed}\nbut the page shows\n{shown}")


class Files:
    """Python blocks with a title: written to the file of that name."""

    def __call__(self, document):  # type: ignore[no-untyped-def]
        for region in CodeBlockParser("python").lexers(document):
            titled = TITLED.match(region.lexemes["arguments"])
            if titled:
                region.parsed = (titled["name"], str(region.lexemes["source"]))
                region.evaluator = self.write
                yield region

    @staticmethod
    def write(example: Example) -> None:
        name, source = example.parsed
        Path(name).write_text(source)


pages = Sybil(
    parsers=[
        PythonCodeBlockParser(doctest_optionflags=FLAGS),
        CodeBlockParser("console", console),
        Files(),
    ]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_example_of_a_page(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for example in pages.parse(page).examples():
        example.evaluate()


def test_an_example_that_does_not_hold_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for text in (
        "```python\n>>> 1 + 1\n3\n```\n",
        "```console\n$ chimera --version\n9.9.9\n```\n",
        "```console\n$ chimera fit nothing --module mlp\nall is well\n```\n",
    ):
        page.write_text(text)
        (example,) = pages.parse(page).examples()
        with pytest.raises(Exception, match="but the page shows|Expected"):
            example.evaluate()


def test_every_python_example_shows_its_prompt() -> None:
    """A block without ``>>>`` and without a title would run, but show nothing that is compared."""
    for page in PAGES:
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.M):
            assert block.startswith(">>> "), f"{page.name}: {block}"
