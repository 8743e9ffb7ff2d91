"""What ``chimera summary`` does once its options are read: network, inputs, tree, page."""

import contextlib
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from torch import nn

from chimera.build.construct import construct, construct_without_data
from chimera.cli.input_shapes import given_inputs
from chimera.cli.mistake import Mistake
from chimera.cli.module_source import load_factory
from chimera.cli.settings import check_settings, read_settings
from chimera.cli.verdict import never_ending, verdict
from chimera.summary import summary


def run(
    source: str,
    shapes: Sequence[str],
    settings: Sequence[str],
    measure: bool,
    check: bool,
    html: Path | None,
    form: str,
) -> int:
    """Print the summary of the network, and write its page where one is asked for."""
    if html is not None and html.is_dir():
        raise Mistake(f"--html: {html} is a directory, expected a file to write")
    if html is not None and not html.parent.is_dir():
        raise Mistake(f"--html {html}: the directory {html.parent} does not exist")
    # What the file or the network prints must not stand in the summary.
    with contextlib.redirect_stdout(sys.stderr), never_ending(source):
        network = load_factory(source)
        factory = partial(network, **check_settings(network, read_settings(settings)))
        inputs = given_inputs(shapes)
        net = _made(source, factory, with_data=measure or html is not None)
        try:
            report = summary(net, inputs, measure=measure, check=check)
        except Exception as error:
            given = " ".join(f"--input {text}" for text in shapes)
            raise Mistake(f"{source} does not run on {given}: {verdict(error)[0]}") from error
    if form == "json":
        print(json.dumps(report.to_dict(), indent=2))  # noqa: T201
    elif form == "markdown":
        print(report.to_markdown())  # noqa: T201
    else:
        Console().print(report)
    if html is not None:
        report.to_html(html)
        if form == "text":
            Console().print(f"\nWritten to {html}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _made(
    source: str, factory: "partial[nn.Module]", with_data: bool
) -> "nn.Module | partial[nn.Module]":
    """The network with its data, or what makes it: ``check`` then makes it anew for its runs."""
    try:
        if with_data:
            return construct(factory, (), {}, 0, 0)
        construct_without_data(factory)
        return factory
    except Exception as error:
        raise Mistake(f"{source} cannot be made: {verdict(error)[0]}") from error
