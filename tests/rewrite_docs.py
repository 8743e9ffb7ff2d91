"""`make docs-outputs`: write into the pages what their examples print now.

Read the difference before it is committed: an output that changed is a change that users see. An
output that a page shortens with ``...`` and that still fits stays as it is.
"""

import contextlib
import doctest
import io
import os
import re
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["COLUMNS"] = "80"

from test_docs import FLAGS, PAGES, TITLED, commands, comparable, run

BLOCK = re.compile(r"^```([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python(block: str, namespace: dict[str, Any]) -> str:
    """A ``>>>`` block with the outputs that its lines have in ``namespace``."""
    lines: list[str] = []
    for example in doctest.DocTestParser().get_examples(block):
        first, *rest = example.source.rstrip("\n").split("\n")
        lines += [f">>> {first}", *(f"... {line}".rstrip() for line in rest)]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            try:
                exec(compile(example.source, "<page>", "single"), namespace)
            except Exception as error:  # noqa: BLE001  the page may show it
                told = "".join(traceback.format_exception_only(error))
                print(f"Traceback (most recent call last):\n    ...\n{told}", end="")  # noqa: T201
        output = printed.getvalue()
        if doctest.OutputChecker().check_output(example.want, output, FLAGS):
            output = example.want
        lines += [line or "<BLANKLINE>" for line in output.rstrip("\n").split("\n") if output]
    return "\n".join(lines) + "\n"


def console(block: str) -> str:
    """A console block with what its commands print."""
    text = ""
    for typed, command, shown in commands(block):
        printed = run(command)
        same = comparable(command, printed) == comparable(command, shown)
        output = shown if same else printed
        lines = [line.rstrip() for line in output.strip("\n").split("\n") if output.strip()]
        text += "\n".join([f"$ {typed}", *lines]) + "\n"
    return text


def rewrite(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}

    def filled(match: re.Match[str]) -> str:
        language, block = match.groups()
        if language == "python" and block.startswith(">>> "):
            block = python(block, namespace)
        elif language == "console":
            block = console(block)
        elif titled := TITLED.match(language):
            Path(titled["name"]).write_text(block)
        return f"```{language}\n{block}```"

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        sys.path.insert(0, folder)
        page.write_text(BLOCK.sub(filled, page.read_text()))
        sys.path.remove(folder)


if __name__ == "__main__":
    for page in PAGES:
        rewrite(page)
