"""Hooks on all modules stay out of a thread, and are back afterwards."""

import threading

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from chimera.paths.hooks import hooks_of_all, without_hooks_of_all


def test_they_stay_out_and_come_back():
    seen = []
    handle = register_module_forward_hook(lambda *_: seen.append("after"))
    before = register_module_forward_pre_hook(lambda *_: seen.append("before"))
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    try:
        with without_hooks_of_all(), without_hooks_of_all():
            layer(x)
        assert seen == []
        layer(x)
        assert seen == ["before", "after"]
    finally:
        handle.remove()
        before.remove()
    assert not hooks_of_all()


def test_other_threads_keep_theirs_and_one_set_inside_fires():
    seen = []
    handle = register_module_forward_hook(lambda *_: seen.append("outer"))
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    try:
        with without_hooks_of_all():
            thread = threading.Thread(target=lambda: layer(x))
            thread.start()
            thread.join()
            assert seen == ["outer"]
            inner = register_module_forward_hook(lambda *_: seen.append("inner"))
            layer(x)
            inner.remove()
            assert seen == ["outer", "inner"]
            handle.remove()  # inside: it is not to come back
    finally:
        handle.remove()
    layer(x)
    assert seen == ["outer", "inner"]
    assert not hooks_of_all()


def test_threads_that_leave_in_the_order_in_which_they_came():
    seen = []
    handle = register_module_forward_hook(lambda *_: seen.append(threading.get_ident()))
    entered, left, layer = threading.Event(), threading.Event(), nn.Linear(2, 2)

    def second():
        with without_hooks_of_all():
            entered.set()
            left.wait(60)
            layer(torch.ones(1, 2))

    thread = threading.Thread(target=second)
    try:
        with without_hooks_of_all():
            thread.start()
            entered.wait(60)
        layer(torch.ones(1, 2))
        left.set()
        thread.join(60)
        layer(torch.ones(1, 2))
    finally:
        handle.remove()
    assert seen == [threading.get_ident()] * 2
