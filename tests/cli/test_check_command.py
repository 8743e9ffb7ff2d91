"""``chimera check`` as a user types it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from chimera.check.finding import Finding
from chimera.cli import main
from chimera.cli.annotations import annotation

NETS = """
import torch
from torch import nn


class Clean(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.layer = nn.Linear(20, width)

    def forward(self, x):
        return self.layer(x)


class Lost(Clean):
    def __init__(self, width: int = 4):
        super().__init__(width)
        self.more = [nn.Linear(width, width)]

    def forward(self, x):
        for layer in self.more:
            x = layer(self.layer(x))
        return x


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 3)

    def forward(self, words, weights):
        return (self.table(words) * weights).sum()


def make(lost=False, width: int = 4):
    return Lost(width) if lost else Clean(width)


def number():
    return 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def test_a_clean_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nets.py:Clean", "--input", "2,20"]) == 0
    assert capsys.readouterr().out == "nets.py:Clean: nothing found\n"


def test_lost_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nets.py:Lost", "--input", "batch,20"]) == 1
    printed = capsys.readouterr().out
    assert "error [unregistered-module] at the root (nets.py:18)" in printed
    assert "nn.ModuleList" in printed
    assert re.search(r"^nets.py:Lost: \d+ errors?", printed, re.MULTILINE)
    assert max(map(len, printed.splitlines())) <= 80


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nets.py:Lost", "--input", "2,20", "--format", "json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    (finding,) = (found for found in findings if found["rule"] == "unregistered-module")
    assert (finding["severity"], finding["file"], finding["line"]) == ("error", "nets.py", 18)


def test_fail_on_never() -> None:
    assert main(["check", "nets.py:Lost", "--input", "2,20", "--fail-on", "never"]) == 0


def test_settings_and_several_inputs() -> None:
    assert main(["check", "nets.py:Clean", "--set", "width=9", "--input", "2,20"]) == 0
    assert main(["check", "nets.py:Embedded", "--input", "5:int64", "--input", "5,3"]) == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["none.py:Net", "--input", "2,20"], "there is no file none.py"),
        (["nets.py:Clean"], "--input requires an argument"),
        (["nets.py:Clean", "--input", "2x20"], "--input: expected sizes or names such as 2,20"),
        (["nets.py:Clean", "--input", "2,20:number"], "'number' is no dtype of torch"),
        (["nets.py:Clean", "--input", "2,20", "--set", "width=a"], "to be a whole number"),
        (["nets.py:Clean", "--input", "2,20", "--set", "width=-1"], "Clean cannot be made"),
        (["nets.py:Clean", "--input", "2,20", "--format", "xml"], 'Choose from: "text", "json"'),
    ],
)
def test_a_mistake_is_one_line(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert captured.err.count("\n") == 1


class TestInputs:
    def test_an_example_in_a_file_stands_for_its_shape(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        np.save(here / "words.npy", np.array([[1, 6], [0, 3]]))
        torch.save(torch.ones(2, 2, 3), here / "weights.pt")
        files = ["--input", "words.npy", "--input", "weights=weights.pt"]
        assert main(["check", "nets.py:Embedded", *files]) == 0
        np.save(here / "words.npy", np.array([[1, 7], [0, 3]]))
        capsys.readouterr()
        assert main(["check", "nets.py:Embedded", *files]) == 1
        told = capsys.readouterr().out
        assert "error [does-not-run] at table" in told
        assert "num_embeddings=8 or more" in told

    def test_an_input_by_name(self) -> None:
        given = ["--input", "weights=2,4,3", "--input", "words=2,4:int64"]
        assert main(["check", "nets.py:Embedded", *given]) == 0

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("none.npy", "--input none.npy: there is no file none.npy"),
            ("bad.npy", "--input bad.npy: bad.npy holds no array of numbers as numpy.save("),
            ("objects.npy", "--input objects.npy: objects.npy holds no array of numbers"),
            ("empty.npy", "--input empty.npy: empty.npy holds no array of numbers"),
            ("bad.pt", "--input bad.pt: bad.pt holds no tensor as torch.save("),
            ("module.pt", "--input module.pt: module.pt holds no tensor as torch.save("),
            ("x=dict.pt", "--input x=dict.pt: dict.pt holds a dict, expected one tensor"),
            ("x=2,2x", "expected sizes or names"),
        ],
    )
    def test_a_file_of_no_tensor_is_one_line(
        self, text: str, told: str, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (here / "bad.npy").write_bytes(b"no array")
        (here / "bad.pt").write_bytes(b"no tensor")
        (here / "empty.npy").write_bytes(b"")
        np.save(here / "objects.npy", np.array([{}]), allow_pickle=True)
        torch.save(torch.nn.Linear(2, 2), here / "module.pt")
        torch.save({"x": torch.ones(2)}, here / "dict.pt")
        assert main(["check", "nets.py:Clean", "--input", text]) == 2
        captured = capsys.readouterr()
        assert told in captured.err
        assert captured.err.count("\n") == 1
        assert "allow_pickle" not in captured.err  # no mend that the command does not have
        assert "weights_only" not in captured.err

    def test_a_name_twice(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check", "nets.py:Clean", "--input", "x=2,4", "--input", "x=2,4"]) == 2
        assert "x was given before" in capsys.readouterr().err


HOSTILE = """
import sys
from torch import nn


class Ends(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)

    def forward(self, x):
        sys.exit(3)


class EndsEarly(nn.Module):
    def __init__(self):
        sys.exit("done")


class Prints(Ends):
    def forward(self, x):
        print("in the way")
        return nn.Linear.forward(self, x)


class Speaks(Ends):
    def forward(self, x):
        return nn.Linear.forward(self, x)

    def __repr__(self):
        return "x" * 1_000_000


class Itself(Speaks):
    def __init__(self):
        super().__init__()
        self._modules["me"] = self


class Recurs(Ends):
    def forward(self, x):
        return self(x)


class Слой(Speaks):
    pass
"""


@pytest.mark.parametrize("command", ["check", "summary"])
class TestHostilePrograms:
    @pytest.fixture(autouse=True)
    def program(self, here: Path) -> None:
        (here / "hostile.py").write_text(HOSTILE)
        (here / "nothing.py").write_bytes(b"\xff\xfe\x00")

    @pytest.mark.parametrize(
        ("source", "told", "place"),
        [
            ("hostile.py:Ends", "SystemExit(3)", "hostile.py:11"),
            ("hostile.py:EndsEarly", "SystemExit('done')", "hostile.py:16"),
        ],
    )
    def test_what_ends_the_program_is_a_finding_or_one_line(
        self, command: str, source: str, told: str, place: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code = main([command, source, "--input", "2,4"])
        captured = capsys.readouterr()
        said = captured.out if command == "check" else captured.err
        assert told in said
        assert place in said
        if command == "check":
            assert code == 1
            assert captured.err == ""
        else:
            assert code == 2
            assert captured.err.count("\n") == 1
            assert captured.out == ""

    def test_what_does_not_import_is_one_line(
        self, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([command, "nothing.py:Net", "--input", "2,4"]) == 2
        captured = capsys.readouterr()
        assert "nothing.py does not import: SyntaxError" in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""

    def test_what_it_prints_is_not_in_the_way(
        self, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([command, "hostile.py:Prints", "--input", "2,4", "--format", "json"]) == 0
        json.loads(capsys.readouterr().out)

    @pytest.mark.parametrize("name", ["Speaks", "Itself", "Слой"])
    def test_strange_networks_are_shown(
        self, command: str, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([command, f"hostile.py:{name}", "--input", "2,4"]) == 0
        captured = capsys.readouterr()
        assert name in captured.out
        assert len(captured.out) < 2000
        assert captured.err == ""

    def test_endless_recursion(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([command, "hostile.py:Recurs", "--input", "2,4"]) in (1, 2)
        captured = capsys.readouterr()
        assert "RecursionError" in captured.out + captured.err
        assert "Traceback" not in captured.out + captured.err


def test_annotations_of_a_workflow(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nets.py:Lost", "--input", "batch,20", "--format", "github"]) == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "unregistered-module" in line]
    assert line.startswith("::error title=unregistered-module at the root,file=nets.py,line=18::")
    assert "%0A" in line
    assert len(lines) == len([line for line in lines if line.startswith("::")])


def test_special_characters_of_an_annotation() -> None:
    finding = Finding("rule", "info", "a:b", "50%,\nmore", "Why: so.", "Mend.", "x,y.py", 3)
    assert annotation(finding) == (
        "::notice title=rule at a%3Ab,file=x%2Cy.py,line=3::50%25,%0Amore%0AWhy: so.%0AMend."
    )


def test_rules_left_out_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["check", "nets.py:Lost", "--input", "batch,20"]
    assert main([*line, "--ignore", "unregistered-module"]) == 0
    assert "unregistered-module" not in capsys.readouterr().out
    assert main([*line, "--ignore", "unregistered-modul"]) == 2
    assert "there is no check rule 'unregistered-modul'; near it: unr" in capsys.readouterr().err


def test_the_table_of_a_project(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["check", "nets.py:Lost", "--input", "batch,20"]
    project = here / "pyproject.toml"
    project.write_text('[tool.chimera.check]\nfail-on = "never"\nformat = "json"\n')
    assert main(line) == 0
    assert json.loads(capsys.readouterr().out)
    assert main([*line, "--fail-on", "error", "--format", "text"]) == 1
    assert "nets.py:Lost: " in capsys.readouterr().out
    project.write_text('[tool.chimera.check]\nignore = ["unregistered-module"]\n')
    assert main(line) == 0
    (here / "deep").mkdir()
    (here / "deep" / "nets.py").write_text((here / "nets.py").read_text())
    assert main(["check", "deep/nets.py:Lost", "--input", "batch,20"]) == 0


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('ignor = ["a"]', "has no key 'ignor'; there are: ignore, fail-on, format"),
        ("ignore = 3", "ignore must be a list of names of rules; got 3"),
        ('ignore = ["nothing"]', "there is no check rule 'nothing'"),
        ('fail-on = "always"', "fail-on must be one of error, warning, info, never"),
        ("format = [", "pyproject.toml: "),
    ],
)
def test_mistakes_in_the_table_are_told(
    table: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "pyproject.toml").write_text(f"[tool.chimera.check]\n{table}\n")
    assert main(["check", "nets.py:Clean", "--input", "2,20"]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ").replace("  ", " ")


def test_what_the_network_prints_is_not_among_the_findings(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = NETS.replace(
        "return self.layer(x)", 'print("shape", x.shape)\n        return self.layer(x)'
    )
    (here / "loud.py").write_text('print("loading")\n' + text)
    assert main(["check", "loud.py:Lost", "--input", "2,20", "--format", "json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)
    assert "loading" in captured.err


def test_many_findings_of_one_kind_are_told_together(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "many.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(*[nn.LeakyReLU(True) for _ in range(50)])\n"
    )
    line = ["check", "many.py:Net", "--input", "2,20"]
    assert main(line) == 1
    printed = capsys.readouterr().out
    assert "error [mistaken-argument] 47 more of this kind\n  at 3, 4, 5" in printed
    assert printed.count("mend:") == 3
    assert "many.py:Net: 50 errors" in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert main([*line, "--format", "json"]) == 1
    assert len(json.loads(capsys.readouterr().out)) == 50


def test_a_class_of_one_letter_is_no_picture(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "short.py").write_text(
        "from torch import nn\nclass A(nn.Linear):\n    def __init__(self):\n"
        "        super().__init__(20, 4)\n"
    )
    assert main(["check", "short.py:A", "--input", "2,20"]) == 0
    assert capsys.readouterr().out == "short.py:A: nothing found\n"


def test_a_script_that_reads_the_command_line(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "script.py").write_text("import sys\n" + NETS + "\nsys.exit(2)\n")
    assert main(["check", "script.py:Clean", "--input", "2,20"]) == 2
    assert "it ends the program there (SystemExit: 2); put what" in capsys.readouterr().err


def test_a_function_that_makes_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nets.py:make", "--input", "2,20"]) == 0
    assert capsys.readouterr().out == "nets.py:make: nothing found\n"
    lost = ["check", "nets.py:make", "--set", "lost=True", "--input", "2,20", "--format", "json"]
    assert main(lost) == 1
    assert "unregistered-module" in {row["rule"] for row in json.loads(capsys.readouterr().out)}


def test_a_function_that_makes_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nets.py:number", "--input", "2,20"]) == 2
    assert capsys.readouterr().err == ("chimera: module: number returned int, expected a module\n")
