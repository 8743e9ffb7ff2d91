"""What a run writes down: whole files, and nothing where it is refused."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import chimera as ch
from chimera.fit import MLP, Data
from chimera.fit.described import OWN_KEYS
from chimera.fit.result import Result


def blobs() -> Data:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    return ch.data(x, (x[:, 0] > 0).long(), name="halves")


def nets() -> list[nn.Module]:
    made: list[nn.Module] = ch.instances(MLP, 3, 4, 2, hidden=4, seed=0)
    made[2] = nn.Linear(4, 2)
    return made


def run(out: Path, modules: list[nn.Module] | None = None, **options: Any) -> Result:
    return ch.fit(modules or nets(), blobs(), epochs=2, batch_size=8, out=out, **options)


def strict_json(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_every_file_says_what_the_result_says(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "first"
    result = run(out, lr=ch.LogUniform(1e-3, 1e-1), config={"module": "mlp"})
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoints",
        "config.json",
        "environment.json",
        "members.csv",
        "members.safetensors",
        "metrics.jsonl",
    ]
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [strict_json(line) for line in lines] == result.epochs
    with open(out / "members.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    shown = [
        {name: "" if value is None else str(value) for name, value in row.items()}
        for row in result.table
    ]
    assert shown == rows
    config = strict_json((out / "config.json").read_text())
    assert config["module"] == "mlp"
    assert (config["members"], config["epochs"], config["batch_size"]) == (3, 2, 8)
    assert config["data"]["name"] == "halves"
    assert config["data"]["sha256"] == blobs().sha256()
    assert config["optimizer"]["name"] == "AdamW"
    assert config["optimizer"]["groups"][0]["lr"] == [row["lr"] for row in result.table]
    environment = strict_json((out / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()


def test_what_a_run_says_of_itself_is_not_the_callers_to_say(tmp_path: Path) -> None:
    run(tmp_path / "out")
    said = set(strict_json((tmp_path / "out" / "config.json").read_text()))
    assert said | {"choices"} == OWN_KEYS  # "choices" is what a checkpoint adds
    for key in sorted(OWN_KEYS | {"command"}):
        with pytest.raises(ValueError, match=f"config: '{key}' is what the run says of itself"):
            run(tmp_path / "another", config={"note": 1, key: 2})
    assert not (tmp_path / "another").exists()


def test_no_path_of_the_machine_is_written(tmp_path: Path) -> None:
    run(tmp_path / "out")
    for name in ("config.json", "environment.json"):
        text = (tmp_path / "out" / name).read_text()
        assert str(tmp_path) not in text
        assert str(Path.home()) not in text
        assert str(Path.cwd()) not in text


def test_the_members_weights_are_those_of_the_stack(tmp_path: Path) -> None:
    result = run(tmp_path / "out")
    stored = load_file(tmp_path / "out" / "members.safetensors")
    assert stored["groups.0.hidden.0.weight"].shape == (2, 4, 4)
    for place, position in enumerate([0, 1]):
        for name, tensor in result.stack[position].state_dict().items():
            assert torch.equal(stored[f"groups.0.{name}"][place], tensor)
    assert torch.equal(stored["groups.1.weight"][0], result.stack[2].weight)


def test_one_member_is_loaded_from_a_run(tmp_path: Path) -> None:
    result = run(tmp_path / "out")
    into = MLP(4, 2, hidden=4)
    ch.load(tmp_path / "out" / "members.safetensors", into=into, member=1)
    for name, tensor in result.stack[1].state_dict().items():
        assert torch.equal(into.state_dict()[name], tensor)


def test_figures_that_are_not_finite_are_null_in_json_and_nan_in_the_table(tmp_path: Path) -> None:
    modules = nets()
    with torch.no_grad():
        modules[1].out.bias[0] = math.nan
    run(tmp_path / "out", modules)
    line = strict_json((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[0])
    assert [value is None for value in line["validation_loss"]] == [False, True, False]
    with open(tmp_path / "out" / "members.csv", newline="") as file:
        assert [row["test_loss"] == "nan" for row in csv.DictReader(file)] == [False, True, False]


def test_a_run_that_stops_leaves_whole_lines_and_no_table(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(record: dict[str, Any]) -> None:
        raise Stop

    with pytest.raises(Stop):
        run(tmp_path / "out", progress=stop)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["config.json", "environment.json", "metrics.jsonl"]
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [strict_json(line)["epoch"] for line in lines] == [1]


def never(record: dict[str, Any]) -> None:
    raise AssertionError("trained")


def test_a_directory_that_is_not_empty_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"not empty \(it holds mine\.txt\)"):
        run(tmp_path, progress=never)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        run(tmp_path / "mine", progress=never)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_mistake_elsewhere_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        run(tmp_path / "out", [nn.Linear(4, 1)])
    with pytest.raises(TypeError, match="lr must be"):
        run(tmp_path / "out", lr="fast")
    assert not (tmp_path / "out").exists()
