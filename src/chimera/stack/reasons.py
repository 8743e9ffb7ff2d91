"""Why members run one by one, in words: what a run as one raised, said in the terms of the module.

torch's own texts speak of ``vmap``, which the user did not call, and ask for issues to be filed.
What they say of is told here; a text that is not known is given as it is.
"""

from __future__ import annotations

import re

_MOST = 200
# What torch says, and what it says of; the groups of the first fill in the second.
_SAID = (
    (
        r"output dynamic shape. Attempted to vmap over aten::_?(\w+?)2?\.",
        "{} gives a result whose shape depends on the data, so that members' have no common one",
    ),
    (
        r"vmap: (\w+_)\(self, \*extra_args\) is not possible",
        "{} writes what is a member's own into a tensor that all members share, such as one that "
        "torch.zeros made; made from the input, as by x.new_zeros, each has its own",
    ),
    (
        r"must override the setup_context staticmethod",
        "a torch.autograd.Function without setup_context; with it, and with vmap or "
        "generate_vmap_rule, members run as one",
    ),
    (
        r"must implement the jvp function for custom autograd.Function",
        "forward-mode derivatives of a torch.autograd.Function without jvp",
    ),
    (
        r"call Tensor.requires_grad_\(\) \(or perhaps using torch.autograd.functional",
        "forward calls requires_grad_, or torch.autograd.functional, on what differs between "
        "members; torch.func.grad and its like run as one",
    ),
    (
        r"stack expects each tensor to be equal size",
        "the members have tensors of different shapes",
    ),
    (
        r"Cannot access data pointer",
        "forward reads the memory of a tensor (storage) outside of torch, as NumPy does",
    ),
)


def why_alone(error: Exception) -> str:
    """The reason, one line.

    Args:
        error: what the run as one raised.
    """
    text = str(error).strip().split("\n")[0]
    if type(error).__module__.partition(".")[0] == "chimera":
        return text[:_MOST]
    for said, told in _SAID:
        found = re.search(said, text)
        if found is not None:
            return told.format(*found.groups())
    text = text.partition(" Please file an issue")[0]
    return f"{type(error).__name__}: {text[:_MOST]}"
