"""Numbers in the user's modules shrink with what they count, and only those."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from squeeze.edits import rewrite
from squeeze.plan import Resize
from squeeze.structure.groups import Structure
from squeeze.structure.trace import trace
from tests.models import HARD


def traced(name: str) -> tuple[nn.Module, Structure]:
    model = HARD[name].build()
    return model, trace(model, HARD[name].inputs())


def resized(name: str) -> dict[str, tuple[int, int]]:
    """As `changed`, for a hard network."""
    return changed(*traced(name))


def changed(model: nn.Module, structure: Structure) -> dict[str, tuple[int, int]]:
    """Each number that changes when the first unit of every group goes: what it was, and what it is."""
    choice = structure.nothing()
    for units in choice.units:
        units[:1] = len(units) > 1
    edits = structure.edits(choice)
    small = rewrite(model, edits)
    found = {}
    for edit in edits:
        if isinstance(edit, Resize):
            name, _, place = edit.attribute.partition(".")
            number = getattr(small.get_submodule(edit.module), name)
            assert (number[int(place)] if place else number) == edit.left
            found[f"{edit.module}.{edit.attribute}"] = edit.size, edit.left
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("number_of_heads", {"bodies.0.heads": (4, 3), "bodies.1.heads": (4, 3)}),
        ("number_of_heads_elsewhere", {"bodies.0.divide.heads": (4, 3), "bodies.1.divide.heads": (4, 3)}),
        ("number_of_heads_by_accident", {"bodies.0.heads": (4, 3), "bodies.1.heads": (4, 3)}),
        ("number_of_width", {"bodies.0.width": (4, 3), "bodies.1.width": (4, 3)}),
        ("shape_in_a_tuple", {"bodies.0.norm.shape.0": (12, 11), "bodies.1.norm.shape.0": (12, 11)}),
        ("patches", {".hidden_dim": (12, 11)}),
        ("sizes_of_parts", {"middle.first": (6, 5), "middle.second": (10, 9)}),
        ("size_and_factor", {"middle.second": (10, 9)}),
        ("shared_number", {}),
        ("attention_heads", {}),
        ("width_of_heads_of_a_trunk", {"attention.heads": (3, 2)}),
        (
            "sizes_of_two_groups",
            {
                f"middle.{i}.parts.{part}": sizes
                for i in (0, 1)
                for part, sizes in enumerate([(15, 13), (9, 8), (6, 5)])
            },
        ),
        (
            "some_of_the_channels",
            {
                f"middle.{i}.{n}": sizes
                for i in (0, 1)
                for n, sizes in (("dim", (16, 14)), ("some", (6, 5)), ("inner", (4, 3)))
            },
        ),
    ],
)
def test_numbers_shrink_with_what_they_count(name: str, expected: dict[str, tuple[int, int]]) -> None:
    assert resized(name) == expected


def test_numbers_of_a_transformer_of_heads_a_trunk_and_its_own_linear_layers() -> None:
    names = {("c_attn.nf", 36, 24), ("split_size", 12, 8), ("c_proj.nf", 12, 11)}
    expected = {f"bodies.{body}.{name}": (size, left) for body in (0, 1) for name, size, left in names}
    assert resized("generative") == expected


def test_a_part_that_does_not_shrink_keeps_its_number() -> None:
    model, structure = traced("sizes_of_parts")
    choice = structure.nothing()
    group = next(i for i, g in enumerate(structure.groups) if any(s.attribute == "second" for s in g.sizes))
    choice.units[group][[1, 4]] = True
    small = rewrite(model, structure.edits(choice))
    assert (small.middle.first, small.middle.second) == (6, 8)  # type: ignore[union-attr]
    assert small(torch.ones(2, 3, 8, 8)).shape == (2, 5)


class Body(nn.Module):
    """Keeps the width of its middle twice, and reads one of the two numbers."""

    def __init__(self, reads: str) -> None:
        super().__init__()
        self.widen, self.narrow, self.reads = nn.Linear(8, 12), nn.Linear(12, 8), reads
        self.one = self.other = 12

    def forward(self, x: Tensor) -> Tensor:
        width = self.one if self.reads == "one" else self.other
        return x + self.narrow(torch.relu(self.widen(x)).view(len(x), width))


def test_what_helped_a_like_module_is_only_a_guess() -> None:
    model = nn.Sequential(Body("one"), Body("other"), Body("one"), nn.Linear(8, 2))
    structure = trace(model, torch.randn(2, 8))
    assert changed(model, structure) == {"0.one": (12, 11), "1.other": (12, 11), "2.one": (12, 11)}


class Parts(nn.Module):
    """Two parts of equal size, which it keeps in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.one, self.other = nn.Linear(8, 24), nn.Linear(12, 8), nn.Linear(12, 8)
        self.sizes = (12, 12)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.both(x).split(self.sizes, 1)
        return x + self.one(torch.relu(one)) + self.other(torch.tanh(other))


def test_parts_of_one_layer_are_not_alike() -> None:
    model = nn.Sequential(Parts(), Parts(), Parts(), nn.Linear(8, 2))
    structure = trace(model, torch.randn(2, 8))
    assert changed(model, structure) == {f"{i}.sizes.{part}": (12, 11) for i in range(3) for part in range(2)}


def test_like_places_are_those_of_like_modules() -> None:
    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(8, 12), nn.Linear(12, 6), nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))

    structure = trace(nn.Sequential(Mlp(), Mlp(), nn.Linear(8, 2)), torch.randn(2, 8))
    kinds = dict(zip([group.name for group in structure.groups], structure.kinds, strict=True))
    assert kinds["0.fc1"] == kinds["1.fc1"] != kinds["0.fc2"] == kinds["1.fc2"]


class PerHead(nn.Module):
    """Attention whose queries, keys and values lie together, head by head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(8, 4 * 11), nn.Linear(4 * 5, 8), 4

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], self.heads, -1).split([3, 3, 5], 3)
        y = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return x + self.out(y.transpose(1, 2).reshape(*x.shape[:2], -1))


def test_what_is_read_in_another_way_is_tried_so_before_anything_of_it_is_pinned() -> None:
    model = nn.Sequential(PerHead(), PerHead(), nn.Linear(8, 2))
    structure = trace(model, torch.randn(2, 6, 8))
    found = changed(model, structure)
    assert found == {"0.heads": (4, 3), "1.heads": (4, 3)}
