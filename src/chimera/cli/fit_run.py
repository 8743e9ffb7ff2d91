"""What ``chimera fit`` does once its options are read: network, data, training, report."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from chimera.build.construct import Factory
from chimera.build.instances import instances_of
from chimera.cli.in_turn import InTurn, of_member
from chimera.cli.mistake import Mistake
from chimera.cli.module_source import load_factory, source_file
from chimera.cli.options import rates
from chimera.cli.progress import Epochs
from chimera.cli.report import print_comparison, print_line, print_result
from chimera.cli.settings import check_settings, read_settings
from chimera.cli.verdict import verdict
from chimera.fit import MLP, Data, LogUniform, digits, load_npz
from chimera.fit import fit as train
from chimera.fit.columns import RESERVED
from chimera.fit.compare import compare_loop as compare_loop_of
from chimera.fit.data import data as load
from chimera.fit.opened import opened
from chimera.fit.run_directory import RunDirectory
from chimera.scale.ranks import Ranks


@dataclass(frozen=True)
class Request:
    """The options of ``chimera fit`` that decide what a run computes, as they were given."""

    data: str
    module: str
    settings: list[str]
    members: int
    epochs: int
    batch_size: int
    lr: str
    seed: int
    device: str | None
    engine: str = "auto"


def start(
    request: Request,
    out: str | None,
    writing: Mapping[str, Any],
    force_unlock: bool,
    compare_loop: int | None,
    ranks: Ranks | None,
) -> int:
    """A new run; the exit code."""
    with opened(out, False, force_unlock, ranks) as directory:
        return run(request, directory, writing, compare_loop, ranks)


def run(
    request: Request,
    directory: RunDirectory | None,
    writing: Mapping[str, Any],
    compare_loop: int | None,
    ranks: Ranks | None,
) -> int:
    """Train, print and write what was asked for; the exit code.

    Args:
        request: what to compute.
        directory: where to write it, new or with a run that goes on.
        writing: the arguments of ``fit`` that say how often; None where it decides.
        compare_loop: of how many members training one by one is compared.
        ranks: all ranks, where there are several; the first prints and compares.
    """
    if compare_loop is not None and compare_loop > request.members:
        raise Mistake(
            f"--compare-loop: expected at most the {request.members} members, got {compare_loop}"
        )
    lr = _learning_rate(request.lr)
    ready = request.module == "mlp"
    network = MLP if ready else _network(request.module)
    settings = read_settings(request.settings)
    given = ("features", "outputs") if ready else ()
    arguments = check_settings(network, settings, given, request.module if ready else None)
    data = _data(request.data)
    sizes = {"features": data.features, "outputs": data.outputs} if ready else {}
    own = _in_turn(request, arguments)
    modules = _instances(request, network, arguments, sizes, data)

    console = console_of(ranks)
    shown = request.epochs, f"training {request.members} members", console.quiet
    with Epochs(*shown) as epochs:
        result = train(
            modules,
            data,
            lr=lr,
            epochs=request.epochs,
            batch_size=request.batch_size,
            seed=request.seed,
            device=request.device,
            engine=request.engine,
            out=directory,
            progress=epochs.add,
            config=_config(request, arguments),
            hyperparameters=own,
            **{name: value for name, value in writing.items() if value is not None},
        )
    network_on_data = f"{_call(request.module, arguments)} on {data.name}"
    print_result(
        console, f"{request.members} members of {network_on_data}", result, tuple(own), ranks
    )
    if directory is not None:
        print_line(console, f"Written to {directory.path}")
    if compare_loop is not None and not console.quiet:
        with Epochs(None, f"training {compare_loop} members one by one"):
            comparison = compare_loop_of(modules, result, compare_loop)
        print_comparison(console, comparison)
    return 0


def console_of(ranks: Ranks | None) -> Console:
    """Where to print; of several ranks the first alone does."""
    return Console(quiet=ranks is not None and ranks.rank > 0)


def _learning_rate(text: str) -> float | LogUniform:
    value = rates(text)
    return LogUniform(*value) if isinstance(value, tuple) else value


def _network(source: str) -> Factory:
    try:
        return load_factory(source)
    except Mistake as mistake:
        raise Mistake(f"--module: {mistake}; mlp is the ready network") from mistake


def _data(name: str) -> Data:
    if name == "digits":
        try:
            return digits()
        except ImportError as error:
            raise Mistake(str(error)) from error
    first, comma, second = name.partition(",")
    if comma and first.endswith(".npy") and second.endswith(".npy"):
        return load(first, second)
    if not name.endswith(".npz"):
        raise Mistake(
            "DATA: expected digits, an .npz file with arrays x and y, or two files X.npy,Y.npy, "
            f"got {name!r}"
        )
    return load_npz(name)


def _in_turn(request: Request, arguments: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The arguments of which members get several values, one value a member."""
    own = {}
    for key, value in arguments.items():
        if not isinstance(value, InTurn):
            continue
        if len(value.values) > request.members:
            raise Mistake(
                f"--set {key}: {len(value.values)} values for {request.members} members; "
                "expected at most one each"
            )
        if key in RESERVED:
            raise Mistake(f"--set {key}: the table has a column {key} of its own; give one value")
        own[key] = [of_member(arguments, member)[key] for member in range(request.members)]
    return own


def _instances(
    request: Request,
    network: Factory,
    arguments: Mapping[str, Any],
    sizes: Mapping[str, int],
    data: Data,
) -> list[nn.Module]:
    """The members, built for the data; whatever fails here is in the network or its arguments."""
    factories: list[Callable[[], nn.Module]] = [
        update_wrapper(partial(network, **of_member(arguments, member), **sizes), network)
        for member in range(request.members)
    ]
    try:
        return instances_of(factories, seed=request.seed, spec=data.spec())
    except Exception as error:
        told, _ = verdict(error)
        called = _call(request.module, arguments)
        raise Mistake(f"--module: {called} cannot be made for {data.name}: {told}") from error


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    """The network as Python would write it: ``mlp(hidden=32)``."""
    inside = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"{name.rpartition(':')[2]}({inside})"


def _config(request: Request, arguments: dict[str, Any]) -> dict[str, Any]:
    """What ``config.json`` says of the network, beside what ``fit`` knows itself."""
    file = None if request.module == "mlp" else source_file(request.module)
    return {
        "module": request.module,
        "arguments": {key: _plain(value) for key, value in arguments.items()},
        "module_sha256": None if file is None else sha256(file),
        "lr": request.lr,
        "command": asdict(request),
    }


def _plain(value: Any) -> Any:
    """A literal as JSON can say it; what it cannot say is written as Python writes it."""
    if isinstance(value, InTurn):
        return {"in turn": [_plain(item) for item in value.values]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return repr(value)


def sha256(file: Path) -> str:
    """A hash of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
