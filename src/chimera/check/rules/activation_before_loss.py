"""An activation at the end of a network that the loss applies itself, or that it needs."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn import functional

from chimera.check.context import Context
from chimera.check.finding import Severity
from chimera.check.rule import Place, Rule
from chimera.check.tail import last_activations

_CROSS_ENTROPY = (nn.CrossEntropyLoss, functional.cross_entropy)
_WITH_LOGITS = (nn.BCEWithLogitsLoss, functional.binary_cross_entropy_with_logits)
_NLL = (nn.NLLLoss, functional.nll_loss)
_REGRESSION = (
    (nn.MSELoss, functional.mse_loss),
    (nn.L1Loss, functional.l1_loss),
    (nn.SmoothL1Loss, functional.smooth_l1_loss),
    (nn.HuberLoss, functional.huber_loss),
)

_WRONG: list[tuple[tuple[Any, ...], str, Severity, str]] = [
    (_CROSS_ENTROPY, "softmax", "error", "Return the logits: cross-entropy applies log-softmax."),
    (_CROSS_ENTROPY, "sigmoid", "warning", "Return the logits: cross-entropy applies log-softmax."),
    (_CROSS_ENTROPY, "tanh", "warning", "Return the logits: between -1 and 1 none can be sure."),
    (_WITH_LOGITS, "tanh", "warning", "Return the logits: between -1 and 1 none can be sure."),
    (
        _CROSS_ENTROPY,
        "relu",
        "warning",
        "Return the logits: ReLU makes one of two signs unsayable.",
    ),
    (
        _CROSS_ENTROPY,
        "log_softmax",
        "info",
        "Return the logits: it is applied twice, to no effect.",
    ),
    (_WITH_LOGITS, "sigmoid", "error", "Return the logits: the loss applies the sigmoid."),
    (_WITH_LOGITS, "softmax", "error", "Return the logits: the loss applies a sigmoid."),
    (_WITH_LOGITS, "log_sigmoid", "error", "Return the logits: the loss applies the sigmoid."),
    (_NLL, "softmax", "error", "Use log_softmax: the loss expects logarithms of probabilities."),
    (_NLL, "sigmoid", "error", "Use log_softmax: the loss expects logarithms of probabilities."),
    *(
        (
            losses,
            "relu",
            "warning",
            "Return the linear output: behind a ReLU half of the outputs start at 0, where no "
            "gradient comes back, and none can be negative.",
        )
        for losses in _REGRESSION
    ),
]


def find(context: Context) -> Iterable[Place]:
    if context.loss is None:
        yield from _without_loss(context)
        return
    ends = last_activations(context)
    several = _outputs(context) > 1
    for last in ends:
        for losses, activation, severity, mend in _WRONG:
            if activation == last.activation and _is_one_of(context.loss, losses):
                of = "an output of the network" if several else "the network"
                yield Place(
                    last.path,
                    f"{of} ends in {activation}, and its loss is {_name(context.loss)}",
                    last.file,
                    last.line,
                    # Which of several outputs the loss takes is not known.
                    "warning" if several and severity == "error" else severity,
                    mend=mend,
                )


def _outputs(context: Context) -> int:
    experiment = context.experiment
    return len(experiment.evaluation.outputs) if experiment and experiment.evaluation else 1


def _without_loss(context: Context) -> Iterable[Place]:
    """What is worth knowing where nobody says what the network is trained with."""
    for last in last_activations(context):
        if last.activation in ("softmax", "sigmoid"):
            loss = "CrossEntropyLoss" if last.activation == "softmax" else "BCEWithLogitsLoss"
            yield Place(
                last.path,
                f"the network ends in {last.activation}: right for probabilities, wrong before "
                f"nn.{loss}, which applies it itself (give loss= to be sure)",
                last.file,
                last.line,
                "info",
                mend="Return the logits, if the loss is that.",
            )


def _is_one_of(loss: Any, losses: tuple[Any, ...]) -> bool:
    kind, function = losses
    return loss is function or loss is kind or isinstance(loss, kind)


def _name(loss: Any) -> str:
    return str(getattr(loss, "__name__", None) or type(loss).__name__)


RULE = Rule(
    name="activation-before-loss",
    severity="error",
    what="A softmax or sigmoid at the end of a network whose loss expects logits, or the other way "
    "round; a ReLU at the end of a regression. Without the loss, a softmax or sigmoid at the end "
    "is worth knowing.",
    why="An activation that is applied twice flattens the gradients: the network trains slowly, to "
    "a worse result, and says nothing.",
    mend="Return what the loss expects.",
    before="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 10)

    def forward(self, x):
        return self.linear(x).softmax(dim=1)


loss = nn.CrossEntropyLoss()
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 10)

    def forward(self, x):
        return self.linear(x)


loss = nn.CrossEntropyLoss()
""",
    find=find,
)
