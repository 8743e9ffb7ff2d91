"""``chimera fit --resume DIR``: the command that started the run, read from its ``config.json``."""

from collections.abc import Mapping
from typing import Any

import torch

from chimera.cli.fit_run import Request, console_of, run, sha256
from chimera.cli.mistake import Mistake
from chimera.cli.module_source import source_file
from chimera.cli.report import print_line
from chimera.fit.opened import opened
from chimera.fit.run_directory import RunDirectory
from chimera.scale.ranks import Ranks
from chimera.store import CheckpointError


def go_on(
    out: str,
    given: Mapping[str, Any],
    writing: Mapping[str, Any],
    force_unlock: bool,
    compare_loop: int | None,
    ranks: Ranks | None,
) -> int:
    """Go on with the run in ``out``, or say that it is finished; the exit code.

    Args:
        out: the run's directory.
        given: the options of the command that decide what a run computes; None where not given.
        writing: those that say how often it is written down; None where not given.
        force_unlock: whether to take over another host's lock.
        compare_loop: of how many members training one by one is compared.
        ranks: all ranks, where there are several.

    Raises:
        Mistake: something given is not what the run was started with, or the module's file is not.
        CheckpointError: the directory's ``config.json`` does not say how the run was started.
    """
    with opened(out, True, force_unlock, ranks) as directory:
        config = directory.config
        assert config is not None
        request = _request(directory, config)
        _check_given(given, request)
        if directory.finished:
            told = (
                f"The run in {out} is finished: {request.members} members, {request.epochs} epochs"
            )
            print_line(console_of(ranks), f"{told}; see members.csv")
            return 0
        _check_module(request, config)
        threads = directory.environment.get("threads")
        if type(threads) is int and 0 < threads <= 4096:
            torch.set_num_threads(threads)
        return run(request, directory, _writing(config, writing), compare_loop, ranks)


def _request(directory: RunDirectory, config: Mapping[str, Any]) -> Request:
    command = config.get("command")
    if command is None:
        raise Mistake(
            f"--resume: the run in {directory.path} was started in Python; "
            f"ch.fit(..., out={str(directory.path)!r}, resume=True) goes on with it"
        )
    try:
        request = Request(**command)
    except TypeError as error:
        raise CheckpointError(
            f"{directory.path / 'config.json'}: does not say how the run was started: {error}"
        ) from error
    kinds = {
        **dict.fromkeys(("data", "module", "lr", "engine"), str),
        **dict.fromkeys(("members", "epochs", "batch_size", "seed"), int),
        "settings": list,
    }
    for name, kind in kinds.items():
        if type(getattr(request, name)) is not kind:
            raise CheckpointError(
                f"{directory.path / 'config.json'}: says that {name} was "
                f"{getattr(request, name)!r:.60}, which is no {kind.__name__}"
            )
    return request


def _check_given(given: Mapping[str, Any], request: Request) -> None:
    for name, value in given.items():
        old = getattr(request, name)
        if value is not None and value != old:
            option = {"data": "DATA", "settings": "--set"}.get(name, f"--{name.replace('_', '-')}")
            raise Mistake(
                f"{option}: the run was started with {old!r}, got {value!r}; "
                "leave it out, or start another run with --out"
            )


def _check_module(request: Request, config: Mapping[str, Any]) -> None:
    """The file is what it was when the run was started; asked before any of it runs."""
    if request.module == "mlp":
        return
    file = source_file(request.module)
    old, new = config.get("module_sha256"), sha256(file)
    if old != new:
        raise Mistake(
            f"--resume: {file} has changed since the run was started: module_sha256 was {old}, "
            f"is {new}"
        )


def _writing(config: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """How often the run is written down: as told now, or as it was."""
    before = config.get("writing")
    before = before if isinstance(before, dict) else {}
    return {name: before.get(name) if value is None else value for name, value in given.items()}
