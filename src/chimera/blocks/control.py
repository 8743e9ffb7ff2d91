"""While and Cond: control flow on data, as modules.

Contract: alone they are plain Python, ``while`` and ``if`` on what the condition says; what runs
them otherwise (many members at once, an exported graph: ``exported.py``) reads ``condition``,
``body``, ``limit``, ``then`` and ``otherwise``. No state of their own.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from chimera.blocks.checked import checked_count, checked_step, described, one_element
from chimera.blocks.exported import choice, loop

Step = nn.Module | Callable[..., Any]


class While(nn.Module):
    """Runs ``body`` while ``condition`` holds, at most ``limit`` times.

    Args:
        condition: a module or a function of the state; gives a one-element tensor or a bool.
        body: a module or a function from the state to the next state, of the same shapes.
        limit: the most turns, 1 or more. To reach it is no error: the loop ends there, as
            ``for _ in range(limit)`` would. It bounds what an infinite or stuck state can cost.

    The state is what ``forward(x)`` takes, a tensor or a tuple of tensors, and goes to both as one
    value. A module is registered (its parameters train); a function is kept as it is, so that a
    module that it uses must be registered elsewhere. A body that works in place works on what came
    in.

    Raises:
        TypeError: ``condition`` or ``body`` is neither module nor function, or is a class or a
            module's method; ``limit`` is no int; when it runs, the condition's answer is neither a
            bool nor a tensor.
        ValueError: ``limit`` is below 1; the condition's answer has more than one element.
    """

    condition: Step
    body: Step
    limit: int

    def __init__(self, condition: Step, body: Step, limit: int) -> None:
        super().__init__()
        self.condition = checked_step("While", "condition", condition)
        self.body = checked_step("While", "body", body)
        self.limit = checked_count("While", "limit, the most turns,", limit)

    def forward(self, x: Any) -> Any:
        """The state when the condition no longer held, or after ``limit`` turns."""
        if torch.compiler.is_exporting():
            return loop(self, x)
        turns = 0
        while turns < self.limit and self.holds(x):
            x = self.body(x)
            turns += 1
        return x

    def holds(self, x: Any) -> bool:
        """What the condition says of the state."""
        return truth("While", self.condition(x))

    def extra_repr(self) -> str:
        return _said(self, "condition", "body") + f"limit={self.limit}"


class Cond(nn.Module):
    """Runs ``then`` where ``condition`` holds, ``otherwise`` where it does not.

    Args:
        condition: a module or a function of the inputs; gives a one-element tensor or a bool.
        then, otherwise: modules or functions of the inputs; ``nn.Identity()`` hands one input on.

    All three take everything that ``forward`` takes. Functions are kept as in While.

    Raises:
        TypeError: an argument is neither module nor function, or is a class or a module's method;
            when it runs, the condition's answer is neither a bool nor a tensor.
        ValueError: when it runs, the condition's answer has more than one element.
    """

    condition: Step
    then: Step
    otherwise: Step

    def __init__(self, condition: Step, then: Step, otherwise: Step) -> None:
        super().__init__()
        self.condition = checked_step("Cond", "condition", condition)
        self.then = checked_step("Cond", "then", then)
        self.otherwise = checked_step("Cond", "otherwise", otherwise)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the branch taken gives."""
        if torch.compiler.is_exporting():
            return choice(self, inputs, named)
        if self.holds(*inputs, **named):
            return self.then(*inputs, **named)
        return self.otherwise(*inputs, **named)

    def holds(self, *inputs: Any, **named: Any) -> bool:
        """What the condition says of the inputs."""
        return truth("Cond", self.condition(*inputs, **named))

    def extra_repr(self) -> str:
        return _said(self, "condition", "then", "otherwise").removesuffix(", ")


def truth(kind: str, answer: Any) -> bool:
    """What a condition's ``answer`` says; ``kind`` is the block's class, for messages.

    Raises:
        TypeError: it is neither a bool nor a tensor.
        ValueError: it is a tensor of several elements, or none.
    """
    if isinstance(answer, bool):
        return answer
    return bool(one_element(kind, answer))


def _said(block: nn.Module, *names: str) -> str:
    steps = ((name, getattr(block, name)) for name in names)
    return "".join(
        f"{name}={getattr(step, '__name__', described(step))}, "
        for name, step in steps
        if not isinstance(step, nn.Module)
    )
