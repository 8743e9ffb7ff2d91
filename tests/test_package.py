"""The package as a whole: its lazy names, its version, what it ships."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import chimera as ch


def fresh(code: str) -> str:
    """What a fresh interpreter prints for ``code``."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", [name for name in ch.__all__ if name != "__version__"])
def test_every_public_name_loads(name: str) -> None:
    value = getattr(ch, name)
    if name == "optim":
        assert isinstance(value, ModuleType)
    else:
        assert callable(value)
        assert value.__doc__
    assert name in dir(ch)


def test_type_checkers_see_the_names_that_are_loaded_on_first_use() -> None:
    tree = ast.parse(Path(str(ch.__file__)).read_text())
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = set()
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for name in node.names:
            assert name.asname == name.name, "a name that is not re-exported"
            home = {"optim": "chimera", **ch._HOME}[name.name]
            assert f"{node.module}.".startswith(f"{home}.")
            seen.add(name.name)
    assert seen == {"optim", *ch._HOME}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'chimera' has no attribute 'stak'"):
        ch.stak  # type: ignore[attr-defined]


def test_importing_a_room_does_not_hide_the_function_of_its_name() -> None:
    code = (
        "import chimera as ch\n"
        "import chimera.build, chimera.check, chimera.fit, chimera.verify\n"
        "from chimera.fit import data\n"
        "print([callable(f) for f in (ch.build, ch.check, ch.fit, ch.verify, ch.data)])"
    )
    assert fresh(code) == "[True, True, True, True, True]"


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, chimera; dir(chimera); print('torch' in sys.modules)"
    assert fresh(code) == "False"


def test_the_version_is_the_distribution_s() -> None:
    assert importlib.metadata.version("chimera-nn") == ch.__version__


def test_types_are_shipped() -> None:
    import importlib.resources

    assert importlib.resources.files("chimera").joinpath("py.typed").is_file()
