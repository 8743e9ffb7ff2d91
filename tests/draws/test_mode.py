"""``randomness`` and the keys of a Stack's draws: which member, which step, which call."""

import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import chimera as ch
from chimera.draws.mode import Drawing, Key, draws_so_far, next_evaluation, overridden

X = torch.ones(2, 64)


class Masks(nn.Module):
    """Gives the masks of two dropouts, a draw in evaluation, too."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(x * self.scale), F.dropout(x, 0.5), torch.rand(4)


def masks(stack):
    return [part != 0 for part in stack(X)[:2]]


def alone(member, step, seed=0, call=0, training=True):
    module = Masks().train(training)
    with ch.randomness(seed=seed, member=member, step=step, call=call):
        return module(X)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class TestKeys:
    def test_masks_are_those_of_the_member_alone_to_the_bit(self):
        stack = ch.Stack([Masks() for _ in range(6)], seed=4)
        for step in range(3):
            out = stack(X)
            for member in range(6):
                assert same([part[member] for part in out], alone(member, step, seed=4))

    @given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 3))
    def test_masks_do_not_depend_on_n_nor_on_neighbours(self, n, others, place):
        modules = [Masks() for _ in range(n)]
        mixed = list(modules)
        mixed[n:n] = [nn.Linear(64, 2) for _ in range(others)]
        mixed.append(nn.Sequential(nn.Linear(64, 2), nn.Dropout(0.1)))
        few, many = ch.Stack(modules, seed=3)(X), ch.Stack(mixed, seed=3)(X)
        index = place % n
        assert same([part[index] for part in few], many[index])

    def test_members_differ_and_the_two_draws_of_a_call(self):
        first, second = masks(ch.Stack([Masks() for _ in range(8)]))
        rows = torch.cat([first, second]).flatten(1)
        assert len({tuple(row.tolist()) for row in rows}) == 16

    def test_no_mask_comes_twice(self):
        stack = ch.Stack([Masks() for _ in range(3)])
        seen = []
        for _ in range(4):
            seen += [tuple(row.flatten().tolist()) for part in masks(stack) for row in part]
            stack.eval()
            for _ in range(2):
                seen += [tuple(row.flatten().tolist()) for row in masks(stack)[1]]
            stack.train()
        assert len(set(seen)) == len(seen) == 4 * (6 + 6)

    def test_seeds_differ(self):
        one, other = (ch.Stack([Masks(), Masks()], seed=seed) for seed in (0, 1))
        assert not same(masks(one), masks(other))

    def test_the_same_seed_draws_the_same(self):
        one, other = (ch.Stack([Masks(), Masks()], seed=5) for _ in range(2))
        for _ in range(3):
            assert same(one(X), other(X))

    def test_torchs_own_seed_says_nothing(self):
        drawn = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            drawn.append(ch.Stack([Masks(), Masks()])(X))
        assert same(*drawn)


class TestSteps:
    def test_evaluation_does_not_change_the_draws_of_training(self):
        plain, watched = (ch.Stack([Masks(), Masks()]) for _ in range(2))
        for turn in range(3):
            assert same(plain(X), watched(X))
            watched.eval()
            for _ in range(turn + 1):
                watched(X)
            watched.train()

    def test_draws_of_evaluation_stand_apart(self):
        stack = ch.Stack([Masks(), Masks()]).eval()
        for count in range(3):
            out = stack(X)
            call = (count + 1) << 32
            for member in range(2):
                expected = alone(member, 0, call=call, training=False)
                assert same([part[member] for part in out], expected)

    def test_a_call_that_fails_takes_no_step(self):
        stack, other = (ch.Stack([Masks(), Masks()]) for _ in range(2))
        with pytest.raises(TypeError):
            stack("text")
        assert same(stack(X), other(X))

    def test_randomness_sets_step_and_seed_of_a_stack(self):
        stack = ch.Stack([Masks() for _ in range(3)], seed=1)
        with ch.randomness(seed=9, member=77, step=12):
            out = stack(X)
        for member in range(3):
            assert same([part[member] for part in out], alone(member, 12, seed=9))
        assert stack.calls == 1

    def test_training_and_evaluating_members_in_one_stack(self):
        modules = [Masks().eval(), Masks(), Masks().eval()]
        stack = ch.Stack(modules)
        for step in range(2):
            out = stack(X)
            for member in range(3):
                expected = alone(member, step, training=member == 1)
                assert same([part[member] for part in out], expected)

    def test_the_key_of_evaluations(self):
        keys = [next_evaluation(Key(0, 3), count) for count in range(4)]
        assert len({key.call for key in keys}) == 4
        assert all(key.step == 3 and key.call >= 1 << 32 for key in keys)


class TestRandomness:
    def test_a_block_draws_on(self):
        with ch.randomness(seed=1):
            first, second = torch.rand(4), torch.rand(4)
        assert not torch.equal(first, second)
        with ch.randomness(seed=1, call=1):
            assert torch.equal(torch.rand(4), second)

    @pytest.mark.parametrize("name", ["seed", "member", "step", "call"])
    def test_every_part_of_the_key_counts(self, name):
        with ch.randomness():
            plain = torch.rand(4)
        with ch.randomness(**{name: 1}):
            assert not torch.equal(torch.rand(4), plain)
        with ch.randomness(**{name: 0}):
            assert torch.equal(torch.rand(4), plain)

    @pytest.mark.parametrize("name", ["seed", "member", "step", "call"])
    @pytest.mark.parametrize("value", [1.0, "1", None, True])
    def test_what_is_no_integer(self, name, value):
        with (
            pytest.raises(TypeError, match=f"{name} must be an integer"),
            ch.randomness(**{name: value}),
        ):
            pass

    @pytest.mark.parametrize("name", ["member", "step", "call"])
    def test_what_is_negative(self, name):
        with (
            pytest.raises(ValueError, match=f"{name} must be 0 or more, got -1"),
            ch.randomness(**{name: -1}),
        ):
            pass
        with ch.randomness(seed=-1):
            torch.rand(2)

    def test_blocks_inside_blocks(self):
        with ch.randomness(seed=1):
            outer = torch.rand(4), torch.rand(4)
        with ch.randomness(seed=1):
            first = torch.rand(4)
            with ch.randomness(seed=2):
                inner = torch.rand(4)
            assert torch.equal(first, outer[0])
            assert torch.equal(torch.rand(4), outer[1])
        with ch.randomness(seed=2):
            assert torch.equal(torch.rand(4), inner)

    def test_an_error_ends_the_block(self):
        state = torch.get_rng_state()
        with pytest.raises(KeyError), ch.randomness():
            raise KeyError
        assert overridden(Key(7, 7)) == Key(7, 7)
        assert draws_so_far() == 0
        torch.rand(3)
        assert not torch.equal(torch.get_rng_state(), state)

    def test_the_global_generator_stays(self):
        state = torch.get_rng_state()
        with ch.randomness():
            torch.rand(4)
            torch.randperm(9)
            F.dropout(X)
        assert torch.equal(torch.get_rng_state(), state)

    def test_a_generator_of_ones_own_is_left_to_draw(self):
        generator = torch.Generator().manual_seed(3)
        expected = torch.rand(4, generator=torch.Generator().manual_seed(3))
        with ch.randomness():
            before = draws_so_far()
            assert torch.equal(torch.rand(4, generator=generator), expected)
            assert draws_so_far() == before

    def test_nothing_is_drawn_on_meta(self):
        with ch.randomness():
            assert torch.rand(3, device="meta").device.type == "meta"
            assert F.dropout(torch.ones(3, device="meta")).shape == (3,)
            first = torch.rand(4)
        with ch.randomness():
            assert torch.equal(torch.rand(4), first)

    def test_parameters_drawn_inside_are_drawn_from_the_key(self):
        with ch.randomness(seed=3):
            one = nn.Linear(4, 4)
        with ch.randomness(seed=3):
            other = nn.Linear(4, 4)
        assert torch.equal(one.weight, other.weight)
        assert one.weight.abs().max() <= 0.5

    def test_another_thread_draws_for_itself(self):
        drawn = []

        def work():
            torch.manual_seed(3)
            drawn.append(torch.rand(4))

        with ch.randomness():
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            inside = torch.rand(4)
        torch.manual_seed(3)
        assert torch.equal(drawn[0], torch.rand(4))
        with ch.randomness():
            assert torch.equal(torch.rand(4), inside)


def test_stacks_in_threads_do_not_meet():
    class Permutes(Masks):
        def forward(self, x):
            return x[:, torch.randperm(64)] * torch.rand(64) * self.scale, torch.randperm(64)

    x = torch.arange(128.0).view(2, 64)
    stacks = [ch.Stack([Permutes() for _ in range(4)], seed=seed) for seed in range(4)]
    expected = [ch.Stack(list(stack), seed=stack.seed)(x) for stack in stacks]
    drawn = {}

    def work(index):
        drawn[index] = stacks[index](x)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(drawn[index], expected[index]) for index in range(4))


class TestTorchsOwnNames:
    """What the mode stands on is torch's own affair: these tell when it changes."""

    def test_the_dispatch_mode(self):
        assert issubclass(Drawing, TorchDispatchMode)
        seen = []

        class Sees(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                seen.append((func, [a.shape for a in args if isinstance(a, torch.Tensor)]))
                return func(*args, **(kwargs or {}))

        with Sees():
            torch.vmap(lambda x: F.dropout(x, 0.5), randomness="different")(torch.ones(3, 4))
        draws = [shape for func, shape in seen if torch.Tag.nondeterministic_seeded in func.tags]
        assert draws == [[(3, 4)]]  # one draw, with the member axis first

    def test_schemas_name_their_arguments(self):
        arguments = torch.ops.aten.rrelu_with_noise.default._schema.arguments
        assert [(a.name, a.default_value) for a in arguments][4] == ("training", False)
