"""What mends the inputs of a loss: for notes on errors."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional


def loss_wants(module: nn.Module) -> str | None:
    """What a loss of torch takes, in words; None for any other module."""
    name = _MODULES.get(type(module))
    if name is None:
        return None
    if name in _OF_CLASSES:
        return "scores [N, C, ...] and int64 classes [N, ...] from 0 to C - 1"
    return "predictions and targets of one shape and dtype"


def loss_misfit(name: str, output: Tensor, target: Tensor) -> str | None:
    """The mend for a call of the function called ``name`` on an output and a target."""
    if name in _OF_CLASSES:
        return _classes(output, target, name == "cross_entropy")
    if name not in _OF_PAIRS:
        return None
    if output.shape != target.shape:
        text = f"give both one shape; {list(output.shape)} and {list(target.shape)} came"
        if output.numel() == target.numel():
            text += f": target.view({', '.join(map(str, output.shape))})"
        return text
    if not target.dtype.is_floating_point:
        return "give floating targets: target.float()"
    if name == "binary_cross_entropy" and _is_outside(output):
        return "end in a sigmoid, or use BCEWithLogitsLoss: the output is not from 0 to 1"
    return None


def raised_in_loss(error: BaseException) -> str | None:
    """What a loss of ``torch.nn.functional`` was given that raised ``error``, and the mend where
    it is known; None where no such loss was running."""
    trace, said = error.__traceback__, None
    while trace is not None:
        code, found = trace.tb_frame.f_code, trace.tb_frame.f_locals
        given = (found.get("input"), found.get("target"))
        if code.co_filename == functional.__file__ and code.co_name in (*_OF_CLASSES, *_OF_PAIRS):
            said = _told(code.co_name, *given)
        trace = trace.tb_next
    return said


def _told(name: str, output: object, target: object) -> str | None:
    if not isinstance(output, Tensor) or not isinstance(target, Tensor):
        return None
    came = " and ".join(
        f"{str(one.dtype).removeprefix('torch.')} {list(one.shape)}" for one in (output, target)
    )
    mend = loss_misfit(name, output, target)
    return f"the loss: {name} of {came}" + (f"\n  mend: {mend}" if mend else "")


def module_misfit(module: nn.Module, output: Tensor, target: Tensor) -> str | None:
    """The mend for a call of a loss of torch; None where it is not known."""
    name = _MODULES.get(type(module))
    return None if name is None else loss_misfit(name, output, target)


_OF_CLASSES = ("cross_entropy", "nll_loss")
_OF_PAIRS = (
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy"),
    "binary_cross_entropy_with_logits",
)
_MODULES: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "cross_entropy",
    nn.NLLLoss: "nll_loss",
    nn.MSELoss: "mse_loss",
    nn.L1Loss: "l1_loss",
    nn.SmoothL1Loss: "smooth_l1_loss",
    nn.HuberLoss: "huber_loss",
    nn.BCELoss: "binary_cross_entropy",
    nn.BCEWithLogitsLoss: "binary_cross_entropy_with_logits",
}


def _classes(output: Tensor, target: Tensor, takes_shares: bool) -> str | None:
    """Scores ``[N, C, ...]`` and the indices of classes ``[N, ...]``."""
    if not output.dim():
        return None
    axis = 1 if output.dim() > 1 else 0
    wanted = [*output.shape[:axis], *output.shape[axis + 1 :]]
    came, count = list(target.shape), output.shape[axis]
    floating = target.dtype.is_floating_point
    if came == list(output.shape) and output.dim() > 1:
        if floating and takes_shares:
            return None
        shares = ", or shares of the classes: target.float()" if takes_shares else ""
        return f"give the indices of the classes: target.argmax({axis}){shares}"
    if came != wanted:
        if came == [*wanted, 1]:
            return f"give a target of {wanted}: target.squeeze(-1)"
        if output.dim() > 2 and came == list(output.shape[:-1]):
            return "put the classes on axis 1: output.movedim(-1, 1)"
        return f"give a target of {wanted}, one for each prediction; {came} came"
    if floating:
        return "give the indices of the classes: target.long()"
    numbers = _range(target)
    if numbers is not None and numbers[1] >= count:
        return f"give {numbers[1] + 1} classes or more, or smaller targets; {numbers[1]} came"
    if numbers is not None and numbers[0] < 0:
        return f"give no targets below 0 but ignore_index; {numbers[0]} came"
    return None


def _is_outside(tensor: Tensor) -> bool:
    """Whether a number is below 0 or above 1."""
    numbers = _range(tensor)
    return numbers is not None and (numbers[0] < 0 or numbers[1] > 1)


def _range(tensor: Tensor) -> "tuple[int, int] | tuple[float, float] | None":
    """The least and the greatest number; None where they cannot be read."""
    if tensor.device.type != "cpu" or not tensor.numel():
        return None
    read: Callable[[Tensor], float] = float if tensor.dtype.is_floating_point else int
    try:
        return read(tensor.detach().min()), read(tensor.detach().max())
    except RuntimeError:  # under vmap no number can be read
        return None
