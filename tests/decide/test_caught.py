"""Whether an error raised at a line would be caught there."""

import contextlib
import sys

import pytest
import torch

from chimera.decide.caught import catches


class Manager:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return True


def _bare(look):
    try:
        return look()
    except:  # noqa: E722
        return None


def _one_kind(look):
    try:
        found = look()
    except (ValueError, RuntimeError):
        found = None
    return found


def _goes_on_in_some(look):
    try:
        return look()
    except ValueError as error:
        if not error.args:
            return None
        raise


def _suppressed(look):
    with contextlib.suppress(RuntimeError):
        return look()


def _managed(look):
    with torch.no_grad(), Manager():
        return look()


def _left_at_last(look):
    try:
        look()
    finally:
        return True  # noqa: B012


def _called(look):
    return _bare(lambda: look())


def _raised_again(look):
    try:
        return look()
    except ValueError as error:
        raise TypeError from error


def _cleaned(look):
    try:
        return look()
    finally:
        look = None


def _in_torchs_managers(look):
    with torch.no_grad(), torch.autocast("cpu", enabled=False), contextlib.nullcontext():
        return look()


def _in_the_handler(look):
    try:
        raise ValueError
    except ValueError:
        return look()


def _beside(look):
    try:
        found = int("x")
    except ValueError:
        found = None
    found = found or look()
    with contextlib.suppress(ValueError):
        int("x")
    return found


def _asked(function):
    seen = []

    def look():
        seen.append(catches(sys._getframe(1), _STARTER, ()))
        return True

    assert _started(function, look)
    return seen


_STARTER = "<who begins the run>"
_names = {}
exec(
    compile("def started(function, *args):\n    return function(*args)\n", _STARTER, "exec"), _names
)
_started = _names["started"]


@pytest.mark.parametrize(
    "function",
    [_bare, _one_kind, _goes_on_in_some, _suppressed, _managed, _left_at_last, _called],
)
def test_a_place_that_catches(function):
    assert _asked(function) == [True]


@pytest.mark.parametrize(
    "function", [_raised_again, _cleaned, _in_torchs_managers, _in_the_handler, _beside]
)
def test_a_place_that_does_not(function):
    assert _asked(function) == [False]


def test_who_began_the_run_is_not_asked():
    def outer(look):
        try:
            return _asked(lambda own: own())
        except ValueError:
            return None

    assert outer(None) == [False]


def test_without_a_source_every_handler_counts():
    names = {}
    tried = "try:\n        pass\n    finally:\n        pass"
    exec(f"def function(look):\n    {tried}\n    return look()\n", names)
    exec("def other(look):\n    return look()\n", names)
    assert _asked(names["function"]) == [True]
    assert _asked(names["other"]) == [False]


def test_files_that_pass_errors_on_are_not_asked():
    def look():
        return catches(sys._getframe(1), _STARTER, own)

    own = (__file__,)
    assert _started(_bare, look) is False
    own = (__file__ + "x",)
    assert _started(_bare, look) is True
