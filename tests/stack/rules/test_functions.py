"""Functions that torch cannot batch, called by a module of the user's own: stacked, and exact."""

import pytest
import torch
import torch.nn.functional as F
from layer_cases import Case, all_of, case, integers, log_probabilities, normal, places, signs
from layer_cases import uniform as chances
from layer_proof import given
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import chimera as ch
from chimera.stack.rules import FUNCTIONS
from chimera.stack.rules.functions import Unstackable, reduced, refuse_legacy

ROWS, CLASSES = normal(6, 5), integers(5, 6)
CTC = (log_probabilities(12, 4, 6), integers(5, 4, 5), all_of(12, 4), all_of(4, 4))


class Calls(nn.Module):
    """Calls a function on its inputs, the first scaled by a parameter where it is floating."""

    def __init__(self, function, table=False, **options):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(5, 4) if table else torch.rand(()) * 0.2 + 0.8)
        self.function, self.table, self.options = function, table, options

    def forward(self, x, *rest):
        if self.table:
            return self.function(x, self.scale, *rest, **self.options)
        return self.function(x * self.scale, *rest, **self.options)


def clipped(x):
    """Written by masks: of numbers, of rows, of a view of the first row; and by places."""
    x = x.clone()
    x[x > 0.5] = 0.5
    x[x.sum(1) < -1] = 0.0
    x[:1][x[:1] < 0] = x.sum()
    x[0, 0] = 2.0
    return x


class Attends(nn.MultiheadAttention):
    """Attention to itself, without the weights, for which torch asks the kernel."""

    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


def calling(function, *draws, **options) -> Case:
    return case(lambda: Calls(function, **options), *draws)


def labels(generator, members, dtype):
    """Rows of labels that end at -1."""
    found = torch.randint(5, (members, 6, 5), generator=generator)
    found[:, :, 3] = -1
    found[:, 0, 0] = -1
    return found


def offsets(generator, members, dtype):
    return torch.tensor([0, 2, 2, 7]).expand(members, 4).contiguous()


def ends(generator, members, dtype):
    return torch.tensor([0, 2, 2, 7, 9]).expand(members, 5).contiguous()


CALLS: list[tuple[object, Case]] = [
    (F.margin_ranking_loss, calling(F.margin_ranking_loss, ROWS, ROWS, signs(6, 5), margin=0.3)),
    (F.soft_margin_loss, calling(F.soft_margin_loss, ROWS, signs(6, 5), reduction="sum")),
    (F.multi_margin_loss, calling(F.multi_margin_loss, ROWS, CLASSES, margin=0.5, p=2)),
    (F.multi_margin_loss, calling(F.multi_margin_loss, normal(5), integers(5))),
    (F.multilabel_margin_loss, calling(F.multilabel_margin_loss, ROWS, labels, reduction="none")),
    (F.multilabel_margin_loss, calling(F.multilabel_margin_loss, normal(5), integers(5, 5))),
    (F.triplet_margin_loss, calling(F.triplet_margin_loss, ROWS, ROWS, ROWS, swap=True, p=1)),
    (F.kl_div, calling(F.kl_div, ROWS, log_probabilities(6, 5), log_target=True, reduction="sum")),
    (F.kl_div, calling(F.kl_div, ROWS, chances(6, 5), reduction="batchmean")),
    (F.gaussian_nll_loss, calling(F.gaussian_nll_loss, ROWS, ROWS, chances(6), full=True)),
    (F.gaussian_nll_loss, calling(F.gaussian_nll_loss, ROWS, ROWS, chances(6, 1), eps=0.5)),
    (F.ctc_loss, calling(F.ctc_loss, *CTC)),
    (torch.Tensor.__setitem__, calling(clipped, ROWS)),
    (
        F.scaled_dot_product_attention,
        calling(F.scaled_dot_product_attention, *[normal(2, 3, 5, 4)] * 3),
    ),
    (F.multi_head_attention_forward, case(lambda: Attends(4, 2), normal(5, 2, 4))),
    (F.ctc_loss, calling(F.ctc_loss, *CTC, reduction="sum", zero_infinity=True)),
    (F.ctc_loss, calling(F.ctc_loss, normal(9, 6), integers(5, 4), all_of(9), all_of(4))),
    (
        F.fractional_max_pool2d,
        calling(
            F.fractional_max_pool2d, normal(2, 3, 7, 7), kernel_size=2, output_ratio=(0.5, 0.6)
        ),
    ),
    (
        F.fractional_max_pool2d_with_indices,
        calling(
            F.fractional_max_pool2d_with_indices, normal(3, 7, 7), kernel_size=2, output_size=(3, 4)
        ),
    ),
    (
        F.fractional_max_pool3d,
        calling(F.fractional_max_pool3d, normal(2, 2, 5, 5, 5), kernel_size=2, output_size=3),
    ),
    (
        F.fractional_max_pool3d_with_indices,
        calling(
            *(F.fractional_max_pool3d_with_indices, normal(2, 2, 5, 5, 5)),
            kernel_size=2,
            output_size=(2, 3, 2),
        ),
    ),
    (F.max_unpool1d, calling(F.max_unpool1d, normal(1, 3, 4), places(8, 1, 3, 4), kernel_size=2)),
    (
        F.max_unpool2d,
        calling(
            *(F.max_unpool2d, normal(2, 3, 4, 4), places(81, 2, 3, 4, 4)),
            kernel_size=2,
            output_size=(9, 9),
        ),
    ),
    (
        F.max_unpool3d,
        calling(F.max_unpool3d, normal(1, 2, 2, 2, 2), places(64, 1, 2, 2, 2, 2), kernel_size=2),
    ),
    (F.rrelu, calling(F.rrelu, ROWS, training=True, lower=0.1, upper=0.4)),
    (F.rrelu, calling(F.rrelu, ROWS, training=True, inplace=True)),
    (F.bilinear, case(lambda: Twice(), normal(2, 3, 5), normal(2, 3, 4))),
    (torch.bilinear, case(lambda: Twice(torch.bilinear), normal(6, 5), normal(6, 4))),
    (F.embedding, calling(F.embedding, integers(5, 6, 3), table=True, padding_idx=-2)),
    (
        F.embedding,
        calling(F.embedding, integers(5, 9), table=True, padding_idx=1, scale_grad_by_freq=True),
    ),
    (torch.empty, calling(lambda x: x + torch.empty(6, 5, dtype=x.dtype).copy_(x), ROWS)),
    (torch.empty, calling(lambda x: x * torch.empty((5,), dtype=x.dtype).normal_(), ROWS)),
    (torch.empty, calling(lambda x: torch.distributions.Normal(x, x.exp()).rsample(), ROWS)),
    (torch.embedding, calling(torch.embedding, ROWS, integers(6, 9), padding_idx=2)),
    (torch.roll, calling(torch.roll, normal(), shifts=2)),
    (torch.Tensor.roll, calling(torch.Tensor.roll, ROWS, shifts=(2, 1), dims=(0, 1))),
    (torch.select_scatter, calling(torch.select_scatter, ROWS, normal(6), dim=1, index=-2)),
    (
        torch.Tensor.select_scatter,
        calling(torch.Tensor.select_scatter, ROWS, normal(5), dim=-2, index=3),
    ),
    (F.embedding_bag, calling(F.embedding_bag, integers(5, 6, 3), table=True, padding_idx=-2)),
    (F.embedding_bag, calling(F.embedding_bag, integers(5, 6, 3), table=True, mode="max")),
    (F.embedding_bag, case(lambda: Bag(), integers(5, 9), offsets)),
    (F.embedding_bag, case(lambda: Bag("sum", last=True), integers(5, 9), ends, normal(9))),
    (torch._weight_norm, calling(torch._weight_norm, normal(4, 3, 2), normal(4, 1, 1))),
    (torch._weight_norm, calling(torch._weight_norm, normal(4, 3), normal(1, 3), dim=1)),
    (torch._weight_norm, calling(torch._weight_norm, normal(4, 3), normal(1), dim=-1)),
    (F.normalize, case(lambda: Kept(), normal(6))),
]


class Twice(nn.Module):
    def __init__(self, function=F.bilinear):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5, 4))
        self.bias = nn.Parameter(torch.randn(3))
        self.function = function

    def forward(self, a, b):
        return self.function(a, b, self.weight, self.bias)


class Bag(nn.Module):
    """Bags by offsets, weighted."""

    def __init__(self, mode="mean", last=False):
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 4))
        self.mode, self.last = mode, last

    def forward(self, indices, starts, *weights):
        return F.embedding_bag(
            *(indices, self.table, starts),
            mode=self.mode,
            include_last_offset=self.last,
            per_sample_weights=weights[0] if weights else None,
        )


class Kept(nn.Module):
    """Writes where it is told."""

    def __init__(self):
        super().__init__()
        self.u = nn.Buffer(torch.randn(6))

    def forward(self, x):
        with torch.no_grad():
            self.u = F.normalize(x + self.u, dim=0, out=self.u)
        return x * self.u.clone()


if hasattr(F, "linear_cross_entropy"):  # new in torch 2.13
    CALLS.append(
        (
            F.linear_cross_entropy,
            calling(
                *(F.linear_cross_entropy, ROWS, normal(4, 5), integers(4, 6)),
                options=nn.LinearCrossEntropyOptions(batch_chunk_size=2),
            ),
        )
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("place", range(len(CALLS)), ids=lambda i: f"{i}-{CALLS[i][0].__name__}")
@pytest.mark.filterwarnings("ignore:reduction")
def test_a_call_is_stacked_and_exact(place, dtype):
    _, known = CALLS[place]
    stack = ch.Stack(known.modules(3, dtype))
    inputs = given(known, dtype)
    ch.verify(stack, inputs, raises=True)
    stack(*inputs.args, **inputs.kwargs)
    assert ch.explain(stack).alone == ()


def test_every_function_of_the_table_is_called_here():
    packing = {torch._pack_padded_sequence, torch._pad_packed_sequence}
    assert set(FUNCTIONS) - {function for function, _ in CALLS} == packing  # tested below


class TestRefusals:
    def test_a_negative_variance_of_one_member(self):
        stack = ch.Stack([nn.GaussianNLLLoss() for _ in range(3)])
        variance = torch.ones(3, 4)
        variance[1, 2] = -1
        with pytest.raises(ValueError, match="negative entry"):
            stack(ch.each(torch.zeros(3, 4)), ch.each(torch.zeros(3, 4)), ch.each(variance))

    def test_an_index_names_no_neighbours_row(self):
        stack = ch.Stack(ch.instances(nn.Embedding, 3, 5, 2))
        with pytest.raises(IndexError, match="out of range"):
            stack(torch.tensor([5]))
        with pytest.raises(IndexError, match="out of range"):
            stack(torch.tensor([-1]))

    def test_a_reduction_that_is_none(self):
        with pytest.raises(ValueError, match="average is not a valid value"):
            reduced(torch.zeros(2), "average")

    def test_what_reduction_has_replaced(self):
        with pytest.raises(Unstackable, match="pass reduction"):
            refuse_legacy(None, True)


def test_shared_inputs_need_no_folding():
    stack = ch.Stack([nn.MaxUnpool1d(2) for _ in range(3)])
    x = torch.randn(1, 3, 4, requires_grad=True)
    indices = places(8, 1, 3, 4)(torch.Generator(), 1, torch.float32)[0]
    stack(x, indices).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 3))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("total", [None, 7])
def test_packing_and_padding(batch_first, total):
    class Packs(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.rand(()))

        def forward(self, x):
            packed = pack_padded_sequence(
                x * self.scale, [2, 5, 3], batch_first=batch_first, enforce_sorted=False
            )
            return pad_packed_sequence(
                packed, batch_first=batch_first, padding_value=0.5, total_length=total
            )

    stack = ch.Stack(ch.instances(Packs, 3))
    x = torch.randn(3, 3, 5, 2) if batch_first else torch.randn(3, 5, 3, 2)
    ch.verify(stack, ch.each(x), raises=True)
    stack(ch.each(x))
    assert ch.explain(stack).alone == ()
