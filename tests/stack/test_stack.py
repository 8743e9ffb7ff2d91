"""The face of a Stack: members in and out, groups, frozen parameters, copies, state, errors."""

import copy
import io
import json
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch
from chimera.paths.structure import read

X = torch.linspace(-1, 1, 12).view(3, 4)


class Net(nn.Module):
    def __init__(self, width=5, act=F.relu):
        super().__init__()
        self.hidden, self.out = nn.Linear(4, width), nn.Linear(width, 2)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.3)
        self.act = act
        self.register_buffer("count", torch.tensor(0))
        self.offset = torch.randn(2)

    def forward(self, x):
        self.count += 1
        return self.out(self.drop(self.act(self.norm(self.hidden(x))))) + self.offset


def nets(n=4, **settings):
    return ch.instances(Net, n, **settings)


def bits(module):
    return {slot.path: slot.tensor.detach().clone() for slot in read(module).slots}


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class TestMembersInAndOut:
    def test_modules_given_stay_as_they_were(self):
        modules = nets()
        modules[1].eval()
        modules[2].hidden.weight.requires_grad_(False)
        fired = []
        modules[0].out.register_forward_hook(lambda *_: fired.append(1))
        before = [(bits(m), m.training, sorted(m.__dict__), m.act) for m in modules]
        ids = [[id(p) for p in m.parameters()] for m in modules]
        stack = ch.Stack(modules)
        stack(X).sum().backward()
        after = [(bits(m), m.training, sorted(m.__dict__), m.act) for m in modules]
        for one, other in zip(before, after, strict=True):
            assert same_bits(one[0], other[0])
            assert one[1:] == other[1:]
        assert ids == [[id(p) for p in m.parameters()] for m in modules]
        assert all(p.grad is None for m in modules for p in m.parameters())
        assert not modules[2].hidden.weight.requires_grad
        assert len(fired) == 1  # by the stack's own copy: the function is the same

    def test_a_member_is_a_copy_of_the_same_bits(self):
        modules = nets()
        stack = ch.Stack(modules)
        for index, module in enumerate(modules):
            assert type(stack[index]) is Net
            assert same_bits(bits(stack[index]), bits(module))
        assert len(stack.modules_list()) == len(list(stack)) == len(stack) == 4

    def test_copies_are_independent(self):
        stack = ch.Stack(nets())
        one, other = stack[1], stack[1]
        with torch.no_grad():
            one.hidden.weight.zero_()
            one.offset.zero_()
            one.count += 7
        assert same_bits(bits(stack[1]), bits(other))
        stack(X)
        assert other.count == 0
        assert stack[1].count == 1

    def test_writing_back(self):
        modules, others = nets(seed=0), nets(seed=1)
        stack = ch.Stack(modules)
        stack[-3] = others[1]
        assert same_bits(bits(stack[1]), bits(others[1]))
        for index in (0, 2, 3):
            assert same_bits(bits(stack[index]), bits(modules[index]))
        with torch.no_grad():
            others[1].hidden.weight.zero_()
        assert stack[1].hidden.weight.any()

    def test_writing_back_keeps_what_is_frozen(self, agree):
        modules = [net.double() for net in nets()]
        stack = ch.Stack(modules, seed=7)
        modules[2].hidden.weight.requires_grad_(False)
        stack[2] = modules[2]
        entry = next(e for e in stack.layout() if e.name == "groups.0.hidden.weight")
        assert entry.frozen.tolist() == [False, False, True, False]
        agree(modules, X.double(), stack=stack)
        for index, module in enumerate(modules):
            module.hidden.weight.requires_grad_(True)
            stack[index] = module
        assert all(entry.frozen is None for entry in stack.layout())

    def test_writing_back_what_a_call_made_of_its_own(self, members):
        class Notes(nn.Linear):
            note = None

            def forward(self, x):
                h = super().forward(x)
                self.note = ["big", h.detach()] if h.sum() > 0 else "small"
                return h

        stack = ch.Stack(members(Notes, 9, 4, 2, dtype=torch.float32))
        stack(X)
        taken = stack.modules_list()
        kinds = [type(module.note) for module in taken]
        assert set(kinds) == {str, list}
        first = kinds.index(list)
        taken[first].note[1].zero_()
        assert stack[first].note[1].any()
        stack[first] = taken[first]
        assert not stack[first].note[1].any()
        taken[first].note[1].add_(1)
        assert not stack[first].note[1].any()

    @pytest.mark.parametrize(
        ("other", "said"),
        [
            (lambda: Net(6), r"hidden\.weight: shape is \(5, 4\) against \(6, 4\)"),
            (
                lambda: Net().double(),
                r"hidden\.weight: dtype is torch\.float32 against torch\.float64",
            ),
            (lambda: Net(act=F.gelu), r"act: value is .*relu.* against .*gelu"),
            (lambda: nn.Linear(4, 2), "the module itself: class is Net against Linear"),
            (lambda: Net().eval(), "the module itself: training is True against False"),
        ],
    )
    def test_writing_back_another_structure_names_path_and_property(self, other, said):
        stack = ch.Stack(nets())
        before = bits(stack[3])
        with pytest.raises(ValueError, match=r"stack\[3\] = .*" + said):
            stack[3] = other()
        assert same_bits(before, bits(stack[3]))

    def test_writing_back_no_module(self):
        with pytest.raises(TypeError, match=r"stack\[0\] = \.\.\. needs a module, got 3"):
            ch.Stack(nets())[0] = 3

    @pytest.mark.parametrize("index", [4, -5, 100])
    def test_an_index_out_of_range_says_the_range(self, index):
        stack = ch.Stack(nets())
        with pytest.raises(IndexError, match=f"member {index} of a stack of 4: pass -4 to 3"):
            stack[index]
        with pytest.raises(IndexError, match="pass -4 to 3"):
            stack[index] = nets()[0]

    @pytest.mark.parametrize("index", ["a", 1.0, slice(0, 2), None])
    def test_an_index_that_is_none(self, index):
        with pytest.raises(TypeError, match="a member is named by its index"):
            ch.Stack(nets())[index]

    def test_numpy_and_tensor_indices(self):
        import numpy as np

        modules = nets()
        stack = ch.Stack(modules)
        assert same_bits(bits(stack[np.int64(2)]), bits(modules[2]))
        assert same_bits(bits(stack[torch.tensor(2)]), bits(modules[2]))

    @pytest.mark.parametrize(
        ("given", "error", "said"),
        [
            ([], ValueError, "modules is empty"),
            (nn.Linear(2, 2), TypeError, r"got one Linear; ch\.instances"),
            (nn.Linear, TypeError, "modules must be a list of modules"),
            (3, TypeError, "modules must be a list of modules, got 3"),
            ([nn.Linear], TypeError, r"modules\[0\] is the class Linear: pass an instance"),
            ([nn.ReLU(), F.relu], TypeError, r"modules\[1\] must be a module"),
            (
                [nn.Linear(2, 2), nn.LazyLinear(2)],
                ValueError,
                r"modules\[1\]: weight is uninitialized; build",
            ),
        ],
    )
    def test_what_is_no_list_of_modules(self, given, error, said):
        with pytest.raises(error, match=said):
            ch.Stack(given)

    def test_a_seed_that_is_no_integer(self):
        with pytest.raises(TypeError, match="seed"):
            ch.Stack(nets(), seed=0.5)

    def test_tensors_that_share_memory_are_named(self):
        class Views(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("table", torch.zeros(6))
                self.register_buffer("head", self.table[:2])

        with pytest.raises(ValueError, match=r"modules\[0\]: head shares memory with table"):
            ch.Stack([Views()])

    def test_hooks_of_tensors_are_no_copys(self):
        net = nn.Linear(2, 2)
        net.bias.register_hook(lambda grad: grad * 0)
        with pytest.raises(ValueError, match=r"modules\[1\]: bias has a hook of its own"):
            ch.Stack([nn.Linear(2, 2), net])
        with pytest.raises(ValueError, match="hook the module"):
            ch.Stack([nn.Linear(2, 2)])[0] = net

    def test_torchscript(self):
        with pytest.warns(DeprecationWarning, match="torch.jit.script"):
            scripted = torch.jit.script(nn.Linear(2, 2))
        with pytest.raises(TypeError, match=r"modules\[0\]: 0 is a TorchScript module"):
            ch.Stack([nn.Sequential(scripted)])

    def test_what_deepcopy_cannot_copy_is_said(self):
        net = nn.Linear(2, 2)
        net.stream = iter(io.StringIO("a"))
        net.lines = (line for line in "ab")
        with pytest.raises(TypeError) as caught:
            ch.Stack([net])
        assert "Linear must be copied" in caught.value.__notes__[0]


class TestGroups:
    def test_members_of_different_structures(self, agree, members):
        kinds = [
            *(lambda: Net(5), lambda: Net(6), lambda: Net(5, F.gelu)),
            *(lambda: nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)), lambda: nn.Linear(4, 2)),
        ]
        order = [3, 0, 1, 0, 2, 4, 1, 0, 3, 4]
        modules = []
        for index, kind in enumerate(order):
            modules += members(kinds[kind], index + 1)[-1:]
            if hasattr(modules[-1], "offset"):
                modules[-1].offset = modules[-1].offset.double()
        stack = agree(modules, X.double())
        assert len(stack.groups) == 5
        assert stack(X.double()).shape == (10, 3, 2)
        assert [type(module) for module in stack] == [type(module) for module in modules]
        agree(modules, ch.each(torch.randn(10, 3, 4).double()))

    def test_outputs_of_different_shapes_are_a_list(self, agree, members):
        modules = members(nn.Linear, 2, 4, 2) + members(nn.Linear, 2, 4, 3)
        modules = [modules[0], modules[2], modules[1], modules[3]]
        stack = agree(modules, X.double())
        out = stack(X.double())
        assert isinstance(out, list)
        assert [tuple(y.shape) for y in out] == [(3, 2), (3, 3), (3, 2), (3, 3)]

    def test_differences_name_path_and_property(self):
        stack = ch.Stack([Net(5), Net(6), Net(5, F.gelu), Net(5).eval()])
        assert stack.differences()[0] == "hidden.weight: shape is (5, 4) against (6, 4)"
        assert stack.differences()[1].startswith("act: value is ")
        assert "training is True against False" in stack.differences()[2]

    def test_any_attribute_that_differs_parts_the_members(self, agree, members):
        class Scaled(nn.Linear):
            def forward(self, x):
                return super().forward(x) * self.scale + self.shift(1)

        def shift(size):
            return lambda x, *, size=size: x * size

        modules = members(Scaled, 6, 4, 2)
        for index, module in enumerate(modules):
            module.scale = [1, 1.0, True, 2, 1, 2][index]
            module.shift = shift(index // 3)
        stack = agree(modules, X.double())
        assert len(stack.groups) == 5

    def test_layout_covers_every_member(self, members):
        stack = ch.Stack([Net(5), Net(6), Net(5)])
        rows = {}
        for entry in stack.layout():
            assert entry.parameter is dict(stack.named_parameters())[entry.name]
            assert entry.parameter.shape[0] == len(entry.members)
            for row, member in enumerate(entry.members.tolist()):
                path = entry.name.split(".", 2)[2]
                rows[member, path] = entry.parameter[row]
        for index, module in enumerate(stack):
            named = dict(module.named_parameters())
            assert {path for i, path in rows if i == index} == set(named)
            assert all(torch.equal(rows[index, path], named[path]) for path in named)


class TestFrozen:
    @pytest.mark.parametrize("which", [[0], [1, 2], [0, 1, 2, 3]])
    def test_frozen_in_some_members(self, agree, which):
        modules = [net.double() for net in nets()]
        for index in which:
            modules[index].hidden.requires_grad_(False)
        before = {i: modules[i].hidden.weight.clone() for i in which}
        stack = agree(modules, X.double())
        for index in which:
            assert torch.equal(stack[index].hidden.weight, before[index])
            assert not stack[index].hidden.weight.requires_grad
            assert stack[index].out.weight.requires_grad
        frozen = {e.name: e.frozen for e in stack.layout()}["groups.0.hidden.weight"]
        assert frozen.nonzero().flatten().tolist() == which

    def test_nothing_requires_a_gradient(self, agree):
        modules = [net.double().requires_grad_(False) for net in nets()]
        stack = agree(modules, X.double(), gradients=False)
        assert not stack(X.double()).requires_grad
        assert not any(p.requires_grad for p in stack.parameters())

    def test_requires_grad_of_the_stack(self):
        stack = ch.Stack(nets()).requires_grad_(False)
        assert not stack(X).requires_grad
        assert not any(p.requires_grad for p in stack[2].parameters())
        assert all(entry.frozen.all() for entry in stack.layout())


class TestTies:
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.c = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b = self.a
            self.c.weight = self.a.weight
            self.layers = [self.a, self.b, self.c]
            self.last = (self.layers, {"weight": self.a.weight})
            self.norm = nn.BatchNorm1d(4)
            self.same_norm = self.norm
            self.double_it = lambda x: x @ self.last[1]["weight"]

        def forward(self, x):
            for layer in self.layers:
                x = layer(x).tanh()
            return self.same_norm(self.norm(self.double_it(x)))

    def test_shared_modules_and_tensors(self, agree, members):
        stack = agree(members(self.Shared, 4), X.double())
        names = [name for name, _ in stack.named_parameters()]
        assert sorted(names) == [
            f"groups.0.{name}"
            for name in ("a.bias", "a.weight", "c.bias", "norm.bias", "norm.weight")
        ]
        member = stack[2]
        assert member.a is member.b is member.layers[1]
        assert member.c.weight is member.a.weight is member.last[1]["weight"]
        assert member.norm is member.same_norm
        assert stack[1].a.weight is not member.a.weight

    def test_modules_hidden_in_lists(self, members):
        class Hidden(nn.Module):
            def __init__(self):
                super().__init__()
                self.chain = [nn.Linear(4, 4), {"norm": (nn.LayerNorm(4), F.relu)}]

            def forward(self, x):
                return self.chain[1]["norm"][0](self.chain[0](x))

        modules = members(Hidden, 3, dtype=torch.float32)
        stack = ch.Stack(modules)
        assert not list(stack.parameters())  # as torch sees the module itself
        expected = torch.stack([module(X) for module in modules])
        assert torch.allclose(stack(X), expected, atol=1e-6)
        assert stack[1].chain[0] is not modules[1].chain[0]
        assert torch.equal(stack[1].chain[0].weight, modules[1].chain[0].weight)
        assert not ch.explain(stack).alone
        assert "plain tensor attribute" in str(ch.explain(stack))

    def test_names_that_meet(self, members, agree):
        class Names(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                self.type, self.type_ = torch.randn(2, 4).double().clone().unbind()
                self.type = self.type.clone()
                self.table = {"a.b": torch.randn(4).double(), "a_b": torch.randn(4).double()}

            def forward(self, x):
                table = self.table["a.b"] - 2 * self.table["a_b"]
                return self.layer(x) * self.type - self.type_ + table

        stack = agree(members(Names, 4), X.double(), gradients=False)
        assert len(stack.state_dict()) == 6
        assert len({id(t) for t in stack.state_dict(keep_vars=True).values()}) == 6


class TestAsAModule:
    def test_deepcopy(self, agree):
        modules = [net.double() for net in nets()]
        stack = ch.Stack(modules, seed=7)
        twin = copy.deepcopy(stack)
        agree(modules, X.double(), stack=stack)
        fresh = [net.double() for net in nets()]
        assert same_bits(bits(twin[3]), bits(fresh[3]))
        agree(fresh, X.double(), stack=twin)

    def test_deepcopy_goes_on_with_the_same_draws(self):
        stack = ch.Stack(nets())
        stack(X)
        assert torch.equal(copy.deepcopy(stack)(X), stack(X))

    @pytest.mark.parametrize("called", [False, True])
    def test_pickle(self, called):
        stack = ch.Stack(nets(), seed=3)
        if called:
            stack(X)
        twin = pickle.loads(pickle.dumps(stack))
        assert torch.equal(twin(X), stack(X))
        assert same_bits(bits(twin[2]), bits(stack[2]))

    def test_pickle_to_another_process(self):
        stack = ch.Stack([nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)) for _ in range(3)])
        file = io.BytesIO()
        torch.save(stack, file)
        program = (
            "import io, sys, torch\n"
            "file = io.BytesIO(sys.stdin.buffer.read())\n"
            "stack = torch.load(file, weights_only=False)\n"
            f"print(stack(torch.tensor({X.tolist()})).flatten().tolist())"
        )
        command = [sys.executable, "-c", program]
        other = subprocess.run(command, input=file.getvalue(), capture_output=True, check=True)
        numbers = torch.tensor(json.loads(other.stdout))
        assert torch.allclose(stack(X).detach().flatten(), numbers, atol=1e-6)

    def test_double_and_half_way_back(self, agree):
        modules = [net.double() for net in nets()]
        for module in modules:
            module.offset = module.offset.double()
        stack = ch.Stack(nets(), seed=7).double()
        assert stack[0].offset.dtype == stack[0].hidden.weight.dtype == torch.float64
        assert stack[0].count.dtype == torch.int64
        agree(modules, X.double(), stack=stack)
        assert stack.bfloat16()(X.bfloat16()).dtype == torch.bfloat16

    def test_meta(self):
        stack = ch.Stack(nets()).to("meta")
        assert stack(X.to("meta")).shape == (4, 3, 2)
        assert stack.device == torch.device("meta")
        assert stack[0].offset.device.type == "meta"

    def test_state_dict_round_trip(self):
        one, other = ch.Stack(nets(seed=0)), ch.Stack(nets(seed=1))
        one(X)
        assert set(one.state_dict()) == {
            *(f"groups.0.{name}" for name in nets(1)[0].state_dict()),
            "groups.0.offset",
        }
        other.load_state_dict(one.state_dict())
        assert all(same_bits(bits(a), bits(b)) for a, b in zip(one, other, strict=True))

    def test_a_state_dict_of_another_stack_is_refused(self):
        with pytest.raises(RuntimeError, match="size mismatch"):
            ch.Stack(nets(4)).load_state_dict(ch.Stack(nets(3)).state_dict())

    def test_hooks_on_the_stack_itself(self):
        stack, seen = ch.Stack(nets()), []
        stack.register_forward_hook(lambda module, args, output: seen.append(output.shape))
        stack(X)
        assert seen == [(4, 3, 2)]

    def test_functional_call_and_its_gradient(self):
        stack = ch.Stack([nn.Linear(4, 2) for _ in range(3)])
        weights = {name: p.detach() * 2 for name, p in stack.named_parameters()}

        def total(weights):
            return torch.func.functional_call(stack, weights, (X,)).pow(2).sum()

        grads = torch.func.grad(total)(weights)
        expected = torch.stack([F.linear(X, 2 * m.weight, 2 * m.bias) for m in stack])
        assert torch.allclose(torch.func.functional_call(stack, weights, (X,)), expected)
        scaled = {name: w.clone().requires_grad_() for name, w in weights.items()}
        total(scaled).backward()
        assert all(torch.allclose(grads[name], scaled[name].grad) for name in grads)

    def test_parameters_to_vector_and_zero_grad(self):
        stack = ch.Stack(nets())
        stack(X).sum().backward()
        assert nn.utils.parameters_to_vector(stack.parameters()).numel() == 4 * sum(
            p.numel() for p in nets(1)[0].parameters()
        )
        stack.zero_grad()
        assert all(p.grad is None for p in stack.parameters())

    def test_a_name_like_a_method_of_stack(self):
        class Odd(nn.Module):
            def __init__(self):
                super().__init__()
                self.members, self.run, self.groups = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

            def forward(self, x):
                return self.groups(self.run(self.members(x)))

        assert ch.Stack([Odd(), Odd()])(X).shape == (2, 3, 4)

    def test_repr(self):
        assert "members=4, seed=5" in repr(ch.Stack(nets(), seed=5))


class TestModes:
    def test_train_and_eval_reach_the_members(self):
        stack = ch.Stack(nets())
        assert stack.training
        stack.eval()
        assert not stack[0].training
        assert not stack[0].drop.training
        assert torch.equal(stack(X), stack(X))
        stack.train()
        assert stack[3].drop.training

    def test_modes_come_from_the_members(self, agree):
        modules = [net.double() for net in nets()]
        modules[0].eval()
        modules[2].norm.eval()
        stack = agree(modules, X.double())
        assert [module.training for module in stack] == [False, True, True, True]
        assert not stack[2].norm.training
        assert len(stack.groups) == 3

    def test_evaluation_in_between(self, agree):
        modules = [net.double() for net in nets()]
        stack = ch.Stack(modules, seed=7)
        for module in [stack, *modules]:
            module.eval()
        agree(modules, X.double(), stack=stack, steps=2)
        for module in [stack, *modules]:
            module.train()
        agree(modules, X.double(), stack=stack)


class TestNumbers:
    def test_one_member(self, agree):
        stack = agree([net.double() for net in nets(1)], X.double())
        assert stack(X.double()).shape == (1, 3, 2)
        assert ch.explain(stack).alone[0].reason == "the only member of its structure"

    def test_a_thousand_members(self, members):
        def small():
            return nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2))

        modules = members(small, 1000)
        stack = ch.Stack(modules, seed=2)
        out = stack(X.double())
        out.square().sum().backward()
        entry = next(e for e in stack.layout() if e.name.endswith("2.weight"))
        for index in (0, 1, 500, 999):
            with ch.randomness(seed=2, member=index):
                alone = modules[index](X.double())
            assert torch.allclose(out[index], alone)
            alone.square().sum().backward()
            assert torch.allclose(entry.parameter.grad[index], modules[index][2].weight.grad)

    def test_a_member_does_not_depend_on_the_others(self):
        modules = nets(12)
        whole = ch.Stack(modules)(X)
        few = ch.Stack(modules[:2])(X)
        assert torch.allclose(whole[:2], few, atol=1e-6)

    def test_a_broken_neighbour_harms_nobody(self):
        modules = [net.double() for net in nets(4)]
        whole = ch.Stack(modules)(X.double())
        with torch.no_grad():
            modules[1].out.weight.fill_(float("nan"))
            modules[2].hidden.weight.fill_(float("inf"))
        broken = ch.Stack(modules)
        out = broken(X.double())
        assert torch.allclose(out[[0, 3]], whole[[0, 3]])
        out[[0, 3]].sum().backward()
        for entry in broken.layout():
            assert entry.parameter.grad[[0, 3]].isfinite().all()

    def test_a_stack_may_hold_the_same_module_twice(self):
        net = nn.Linear(4, 2)
        stack = ch.Stack([net, net])
        with torch.no_grad():
            next(stack.parameters())[0].zero_()
        assert not stack[0].weight.any()
        assert torch.equal(stack[1].weight, net.weight)

    @pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4)])
    def test_empty_batches(self, agree, members, shape):
        modules = members(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Dropout(0.5)), 3)
        stack = agree(modules, torch.zeros(shape).double())
        assert stack(torch.zeros(shape).double()).shape == (3, *shape[:-1], 3)
        agree(modules, ch.each(torch.zeros(3, *shape).double()))
