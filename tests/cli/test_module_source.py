from pathlib import Path

import pytest
from torch import nn

from chimera.cli.mistake import Mistake
from chimera.cli.module_source import load_factory

NETS = """
import dataclasses
from torch import nn

WIDTH = 3

class Net(nn.Module):
    pass

class Plain:
    pass

def make():
    return Net()
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    file = tmp_path / "my_nets.py"
    file.write_text(NETS)
    return file


def mistake(source: object) -> str:
    with pytest.raises(Mistake) as caught:
        load_factory(str(source))
    return str(caught.value)


def test_the_class_of_a_file(nets: Path) -> None:
    cls = load_factory(f"{nets}:Net")
    assert cls.__name__ == "Net"
    assert isinstance(cls(), nn.Module)


def test_the_only_class_needs_no_name(nets: Path) -> None:
    assert load_factory(str(nets)).__name__ == "Net"


def test_a_file_can_import_the_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_for_test.py").write_text("WIDTH = 7")
    file = tmp_path / "user.py"
    file.write_text(
        "from torch import nn\nfrom beside_for_test import WIDTH\n"
        "class Net(nn.Linear):\n    def __init__(self):\n        super().__init__(WIDTH, 1)\n"
    )
    assert load_factory(f"{file}:Net")().in_features == 7  # type: ignore[attr-defined]


def test_a_file_named_as_a_loaded_module_does_not_replace_it(tmp_path: Path) -> None:
    import json

    file = tmp_path / "json.py"
    file.write_text("from torch import nn\nclass Net(nn.Module): pass")
    assert load_factory(f"{file}:Net").__name__ == "Net"
    import json as again

    assert again is json
    assert again.dumps({}) == "{}"


def test_classes_that_need_their_module_by_name(tmp_path: Path) -> None:
    file = tmp_path / "needs_name.py"
    file.write_text(
        "from __future__ import annotations\nimport dataclasses\nfrom torch import nn\n"
        "@dataclasses.dataclass(eq=False)\nclass Net(nn.Module):\n    width: int = 3\n"
        "    def __post_init__(self):\n        super().__init__()\n"
    )
    assert load_factory(f"{file}:Net")(5).width == 5  # type: ignore[call-arg, attr-defined]


def test_no_file(tmp_path: Path) -> None:
    assert mistake(f"{tmp_path}/none.py:Net") == (
        f"there is no file {tmp_path}/none.py; expected file.py:name"
    )


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    assert "folder.py is no file" in mistake(f"{tmp_path}/folder.py:Net")


@pytest.mark.parametrize("source", ["resnet", "nets.txt:Net", "", ":Net"])
def test_what_is_no_python_file(source: str) -> None:
    assert "expected a Python file as in file.py:name" in mistake(source)


def test_what_is_no_name(nets: Path) -> None:
    assert "'3x' is no name of a class or function" in mistake(f"{nets}:3x")


def test_a_class_that_is_not_there(nets: Path) -> None:
    assert mistake(f"{nets}:Other") == f"{nets} has no class or function Other; it defines Net"


@pytest.mark.parametrize(
    ("name", "what"), [("Plain", "a class"), ("WIDTH", "of type int"), ("nn", "of type module")]
)
def test_what_makes_no_module(nets: Path, name: str, what: str) -> None:
    assert mistake(f"{nets}:{name}") == (
        f"{nets}:{name} is {what}, expected a subclass of torch.nn.Module or a function that "
        "makes one; it defines Net"
    )


def test_a_module_that_is_made_already(nets: Path) -> None:
    nets.write_text(NETS + "\nnet = Net()\n")
    assert mistake(f"{nets}:net") == (
        f"{nets}:net is a module already, a Net; give its class, or a function: "
        "def make(): return Net(...)"
    )


@pytest.mark.parametrize("name", ["make", "short", "part", "maker", "Net.made"])
def test_whatever_can_be_called(nets: Path, name: str) -> None:
    nets.write_text(
        NETS
        + "import functools\n"
        + "short = lambda: Net()\n"
        + "part = functools.partial(nn.Linear, 3, out_features=4)\n"
        + "class Maker:\n    def __call__(self):\n        return Net()\n"
        + "maker = Maker()\n"
    )
    if "." in name:
        assert "is no name of a class or function" in mistake(f"{nets}:{name}")
    else:
        assert isinstance(load_factory(f"{nets}:{name}")(), nn.Module)


def test_several_classes_and_no_name(nets: Path) -> None:
    nets.write_text(NETS + "\nclass Other(nn.Module):\n    pass\n")
    assert mistake(nets) == (
        f"{nets} is given without a name; it defines Net, Other, expected {nets}:name"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\nx +", "line 2: SyntaxError: invalid syntax"),
        ("x = 1\n\nprint(undefined)", "line 3: NameError: name 'undefined' is not defined"),
        (
            "import sys\nsys.exit('no')",
            "line 2: it ends the program there (SystemExit: no); put what is to run as a script "
            'under if __name__ == "__main__":',
        ),
        (
            "import no_such_package",
            "line 1: ModuleNotFoundError: No module named 'no_such_package'",
        ),
        ("def f():\n    raise ValueError('two\\nlines')\n\nf()", "line 2: ValueError: two lines"),
    ],
)
def test_a_file_that_does_not_import(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(text)
    assert mistake(f"{file}:Net") == f"{file} does not import: {told}"
    file.write_text("from torch import nn\nclass Net(nn.Module): pass")
    assert load_factory(f"{file}:Net").__name__ == "Net"


def test_a_file_of_a_package_imports_its_neighbours(tmp_path: Path) -> None:
    inner = tmp_path / "package_for_test" / "nets"
    inner.mkdir(parents=True)
    (inner.parent / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("")
    (inner.parent / "sizes.py").write_text("WIDTH = 7")
    (inner / "net.py").write_text(
        "from torch import nn\nfrom ..sizes import WIDTH\n"
        "class Net(nn.Linear):\n    def __init__(self):\n        super().__init__(WIDTH, 1)\n"
    )
    for _ in range(2):
        net = load_factory(f"{inner / 'net.py'}:Net")
        assert net.__module__ == "package_for_test.nets.net"
        assert net().in_features == 7  # type: ignore[attr-defined]


def test_a_slow_import_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("chimera.cli.module_source._LONG_S", 0.0)
    file = tmp_path / "trains_at_import.py"
    file.write_text("from torch import nn\nclass Net(nn.Module):\n    pass\n")
    load_factory(str(file))
    assert "what stands at its top level runs" in capsys.readouterr().err
