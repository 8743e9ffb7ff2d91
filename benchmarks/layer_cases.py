"""One small case of every class of ``torch.nn`` that has a forward.

``CASES`` maps a class's name to how it is made and what it takes; the speeds, the tests and
``docs/coverage.md`` all stand on it. ``layer_names`` lists the classes of the torch that is
installed, so that a new one shows as a gap.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import chimera as ch

Draw = Callable[[torch.Generator, int, torch.dtype], Tensor]


def layer_names() -> list[str]:
    """The public classes of ``torch.nn`` with a forward of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kinds = {name: getattr(nn, name) for name in dir(nn) if not name.startswith("_")}
    return sorted(
        name
        for name, kind in kinds.items()
        if isinstance(kind, type)
        and issubclass(kind, nn.Module)
        and kind.forward is not nn.Module.forward
    )


def normal(*shape: int, scale: float = 1.0) -> Draw:
    """Normal numbers ``[members, *shape]``."""
    return lambda generator, members, dtype: (
        scale * torch.randn(members, *shape, generator=generator, dtype=torch.float64)
    ).to(dtype)


def uniform(*shape: int, low: float = 0.1, high: float = 0.9) -> Draw:
    """Numbers from ``low`` to ``high``."""
    return lambda generator, members, dtype: (
        low + (high - low) * torch.rand(members, *shape, generator=generator, dtype=torch.float64)
    ).to(dtype)


def integers(high: int, *shape: int) -> Draw:
    """Integers below ``high``."""
    return lambda generator, members, dtype: torch.randint(
        high, (members, *shape), generator=generator
    )


def signs(*shape: int) -> Draw:
    """1 and -1, as integers."""
    return lambda generator, members, dtype: (
        2 * torch.randint(2, (members, *shape), generator=generator) - 1
    )


def places(size: int, *shape: int) -> Draw:
    """Where max pooling of 2 found ``shape`` maxima in an input of ``size`` a channel: distinct."""

    def draw(generator: torch.Generator, members: int, dtype: torch.dtype) -> Tensor:
        rows = members * shape[0] * shape[1]
        count = torch.Size(shape[2:]).numel()
        order = torch.rand(rows, size, generator=generator).argsort(-1)[:, :count]
        return order.reshape(members, *shape)

    return draw


def log_probabilities(*shape: int) -> Draw:
    """The logarithms of probabilities along the last axis."""
    return lambda generator, members, dtype: normal(*shape)(generator, members, dtype).log_softmax(
        -1
    )


def all_of(value: int, *shape: int) -> Draw:
    """One integer everywhere."""
    return lambda generator, members, dtype: torch.full((members, *shape), value)


@dataclass(frozen=True)
class Case:
    """How one class is made and what one call takes.

    Attributes:
        factory: makes an instance; a lazy one is built from ``specs``.
        draws: the arguments ``[members, ...]``, by position.
        named: likewise, by keyword.
    """

    factory: Callable[[], nn.Module]
    draws: tuple[Draw, ...]
    named: dict[str, Draw] = field(default_factory=dict)

    def arguments(
        self, members: int, dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Inputs with the member axis first."""
        generator = torch.Generator().manual_seed(seed)
        args = [draw(generator, members, dtype) for draw in self.draws]
        return args, {key: draw(generator, members, dtype) for key, draw in self.named.items()}

    def modules(self, members: int, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
        """Instances, each with numbers of its own in every floating tensor."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated classes, and advice on nested tensors
            spec = None
            if "Lazy" in type(self.factory()).__name__:
                args, _ = self.arguments(1)
                spec = ch.spec(*args[0].shape[1:])
            made = ch.instances(self.factory, members, seed=0, spec=spec)
        return [module.to(dtype) for module in made]


def case(factory: Callable[[], nn.Module], *draws: Draw, **named: Draw) -> Case:
    """A ``Case`` in one line."""
    return Case(factory, draws, named)


ROWS = normal(8, 16)
SERIES = normal(4, 4, 16)
IMAGES = normal(4, 4, 8, 8)
VOLUMES = normal(2, 4, 6, 6, 6)
TOKENS = normal(4, 6, 16)

_PLAIN = (
    *("CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh"),
    *("Identity", "LeakyReLU", "LogSigmoid", "Mish", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU"),
    *("SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink"),
    *("AlphaDropout", "Dropout", "Flatten"),
)
_BY_AXIS = ("Softmax", "Softmin", "LogSoftmax")
_DIMENSIONS = {1: SERIES, 2: IMAGES, 3: VOLUMES}


def _each_dimension() -> dict[str, Case]:
    """The families that come as ``1d``, ``2d`` and ``3d``."""
    found: dict[str, Case] = {}
    for d, data in _DIMENSIONS.items():
        kinds: dict[str, tuple] = {
            "AdaptiveAvgPool": (3,),
            "AdaptiveMaxPool": (3,),
            "AvgPool": (2,),
            "BatchNorm": (4,),
            "CircularPad": (1,),
            "ConstantPad": (1, 0.5),
            "Conv": (4, 6, 3),
            "ConvTranspose": (4, 6, 3),
            "InstanceNorm": (4,),
            "LPPool": (2, 2),
            "LazyBatchNorm": (),
            "LazyConv": (6, 3),
            "LazyConvTranspose": (6, 3),
            "LazyInstanceNorm": (),
            "MaxPool": (2,),
            "ReflectionPad": (1,),
            "ReplicationPad": (1,),
            "ZeroPad": (1,),
            "Dropout": (),
        }
        for stem, args in kinds.items():
            found[f"{stem}{d}d"] = case(_maker(f"{stem}{d}d", *args), data)
    found["FractionalMaxPool2d"] = case(_maker("FractionalMaxPool2d", 2, output_size=4), IMAGES)
    found["FractionalMaxPool3d"] = case(_maker("FractionalMaxPool3d", 2, output_size=3), VOLUMES)
    found["MaxUnpool1d"] = case(_maker("MaxUnpool1d", 2), normal(4, 4, 8), places(16, 4, 4, 8))
    found["MaxUnpool2d"] = case(
        _maker("MaxUnpool2d", 2), normal(4, 4, 4, 4), places(64, 4, 4, 4, 4)
    )
    found["MaxUnpool3d"] = case(
        _maker("MaxUnpool3d", 2), normal(2, 4, 3, 3, 3), places(216, 2, 4, 3, 3, 3)
    )
    return found


def _maker(name: str, *args: object, **named: object) -> Callable[[], nn.Module]:
    return lambda: getattr(nn, name)(*args, **named)


def _sync_batch_norm() -> nn.Module:
    return nn.SyncBatchNorm(4).eval()  # in training it needs a process group on GPUs


def _losses() -> dict[str, Case]:
    rows, classes = normal(8, 10), integers(10, 8)
    return {
        "BCELoss": case(nn.BCELoss, uniform(8, 10), uniform(8, 10)),
        "BCEWithLogitsLoss": case(nn.BCEWithLogitsLoss, rows, uniform(8, 10)),
        "CTCLoss": case(
            nn.CTCLoss, log_probabilities(12, 4, 6), integers(5, 4, 5), all_of(12, 4), all_of(5, 4)
        ),
        "CosineEmbeddingLoss": case(nn.CosineEmbeddingLoss, rows, rows, signs(8)),
        "CrossEntropyLoss": case(nn.CrossEntropyLoss, rows, classes),
        "GaussianNLLLoss": case(nn.GaussianNLLLoss, rows, rows, uniform(8, 10)),
        "HingeEmbeddingLoss": case(nn.HingeEmbeddingLoss, rows, signs(8, 10)),
        "HuberLoss": case(nn.HuberLoss, rows, rows),
        "KLDivLoss": case(
            _maker("KLDivLoss", reduction="batchmean"), log_probabilities(8, 10), uniform(8, 10)
        ),
        "L1Loss": case(nn.L1Loss, rows, rows),
        "LinearCrossEntropyLoss": case(_maker("LinearCrossEntropyLoss", 16, 10), ROWS, classes),
        "MSELoss": case(nn.MSELoss, rows, rows),
        "MarginRankingLoss": case(nn.MarginRankingLoss, normal(8), normal(8), signs(8)),
        "MultiLabelMarginLoss": case(nn.MultiLabelMarginLoss, rows, integers(10, 8, 10)),
        "MultiLabelSoftMarginLoss": case(nn.MultiLabelSoftMarginLoss, rows, uniform(8, 10)),
        "MultiMarginLoss": case(nn.MultiMarginLoss, rows, classes),
        "NLLLoss": case(nn.NLLLoss, log_probabilities(8, 10), classes),
        "NLLLoss2d": case(nn.NLLLoss2d, normal(4, 5, 6, 6), integers(5, 4, 6, 6)),
        "PoissonNLLLoss": case(nn.PoissonNLLLoss, rows, uniform(8, 10)),
        "SmoothL1Loss": case(nn.SmoothL1Loss, rows, rows),
        "SoftMarginLoss": case(nn.SoftMarginLoss, rows, signs(8, 10)),
        "TripletMarginLoss": case(nn.TripletMarginLoss, rows, rows, rows),
        "TripletMarginWithDistanceLoss": case(nn.TripletMarginWithDistanceLoss, rows, rows, rows),
    }


def _sequences() -> dict[str, Case]:
    steps, hidden = normal(20, 8, 32), normal(8, 32)
    encoder = {"d_model": 16, "nhead": 2, "dim_feedforward": 32, "batch_first": True}
    layer = _maker("TransformerEncoderLayer", **encoder)
    decoder = _maker("TransformerDecoderLayer", **encoder)
    return {
        "RNN": case(_maker("RNN", 32, 32), steps),
        "LSTM": case(_maker("LSTM", 32, 32), steps),
        "GRU": case(_maker("GRU", 32, 32), steps),
        "RNNCell": case(_maker("RNNCell", 32, 32), hidden, hidden),
        "LSTMCell": case(_maker("LSTMCell", 32, 32), hidden),
        "GRUCell": case(_maker("GRUCell", 32, 32), hidden, hidden),
        "MultiheadAttention": case(
            _maker("MultiheadAttention", 16, 2, batch_first=True), TOKENS, TOKENS, TOKENS
        ),
        "TransformerEncoderLayer": case(layer, TOKENS),
        "TransformerDecoderLayer": case(decoder, TOKENS, TOKENS),
        "TransformerEncoder": case(lambda: nn.TransformerEncoder(layer(), 2), TOKENS),
        "TransformerDecoder": case(lambda: nn.TransformerDecoder(decoder(), 2), TOKENS, TOKENS),
        "Transformer": case(
            _maker("Transformer", **encoder, num_encoder_layers=1, num_decoder_layers=1),
            *(TOKENS, TOKENS),
        ),
    }


CASES: dict[str, Case] = {
    **{name: case(_maker(name), ROWS) for name in _PLAIN},
    **{name: case(_maker(name, dim=-1), normal(8, 10)) for name in _BY_AXIS},
    **_each_dimension(),
    **_losses(),
    **_sequences(),
    "AdaptiveLogSoftmaxWithLoss": case(
        _maker("AdaptiveLogSoftmaxWithLoss", 16, 20, [5, 10]), ROWS, integers(20, 8)
    ),
    "Bilinear": case(_maker("Bilinear", 8, 6, 5), normal(8, 8), normal(8, 6)),
    "ChannelShuffle": case(_maker("ChannelShuffle", 2), IMAGES),
    "CosineSimilarity": case(nn.CosineSimilarity, ROWS, ROWS),
    "CrossMapLRN2d": case(_maker("CrossMapLRN2d", 3), IMAGES),
    "DataParallel": case(lambda: nn.DataParallel(nn.Linear(16, 16)), ROWS),
    "Embedding": case(_maker("Embedding", 30, 16), integers(30, 8, 6)),
    "EmbeddingBag": case(_maker("EmbeddingBag", 30, 16), integers(30, 8, 6)),
    "FeatureAlphaDropout": case(nn.FeatureAlphaDropout, IMAGES),
    "Fold": case(_maker("Fold", (5, 6), (2, 2)), normal(4, 12, 20)),
    "GroupNorm": case(_maker("GroupNorm", 2, 4), IMAGES),
    "LayerNorm": case(_maker("LayerNorm", 16), ROWS),
    "LazyLinear": case(_maker("LazyLinear", 16), ROWS),
    "Linear": case(_maker("Linear", 16, 16), ROWS),
    "LocalResponseNorm": case(_maker("LocalResponseNorm", 3), IMAGES),
    "PairwiseDistance": case(nn.PairwiseDistance, ROWS, ROWS),
    "PixelShuffle": case(_maker("PixelShuffle", 2), IMAGES),
    "PixelUnshuffle": case(_maker("PixelUnshuffle", 2), IMAGES),
    "RMSNorm": case(_maker("RMSNorm", 16), ROWS),
    "Sequential": case(lambda: nn.Sequential(nn.Linear(16, 16), nn.Tanh()), ROWS),
    "Softmax2d": case(nn.Softmax2d, IMAGES),
    "SyncBatchNorm": case(_sync_batch_norm, IMAGES),
    "Threshold": case(_maker("Threshold", 0.1, 0.2), ROWS),
    "Unflatten": case(_maker("Unflatten", 1, (4, 4)), ROWS),
    "Unfold": case(_maker("Unfold", 3), IMAGES),
    "Upsample": case(_maker("Upsample", scale_factor=2, mode="bilinear"), IMAGES),
    "UpsamplingBilinear2d": case(_maker("UpsamplingBilinear2d", scale_factor=2), IMAGES),
    "UpsamplingNearest2d": case(_maker("UpsamplingNearest2d", scale_factor=2), IMAGES),
}
