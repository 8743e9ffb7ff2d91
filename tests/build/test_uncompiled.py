"""What looks at a network leaves how torch compiles as it was, whichever thread is the last."""

import threading

import torch
from torch import nn

from chimera.build.uncompiled import uncompiled


def compiles() -> bool:
    """Whether a compiled function is compiled."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compile(nn.Linear(2, 2), backend=backend)(torch.ones(1, 2))
    return bool(graphs)


def test_compiled_functions_run_as_python_inside():
    assert compiles()
    with uncompiled():
        assert not compiles()
        with uncompiled():
            pass
        assert not compiles()
    assert compiles()


def test_threads_that_leave_in_the_order_in_which_they_came():
    assert compiles()
    entered, left = threading.Event(), threading.Event()

    def second():
        with uncompiled():
            entered.set()
            left.wait(60)

    thread = threading.Thread(target=second)
    with uncompiled():
        thread.start()
        entered.wait(60)
    assert not compiles()
    left.set()
    thread.join(60)
    assert compiles()
