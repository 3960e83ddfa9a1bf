"""Whole numbers in a user's modules change, and nothing else of that name or value does."""

import pytest
from torch import nn

from squeeze.edits import rewrite
from squeeze.errors import PlanError
from squeeze.plan import Drop, Resize


class Sized(nn.Module):
    """Numbers of several kinds, one of them a size."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.scale, self.last, self.shape = 4, 4.0, True, (4, 4)
        self.fc = nn.Linear(4, 4)


@pytest.mark.parametrize("module", ["", "inner"])
def test_a_size_in_a_module_of_the_users_changes(module: str) -> None:
    dense = Sized()
    dense.inner = Sized()
    small = rewrite(dense, [Resize(module, "heads", 4, 3)])
    changed, same = (small, small.inner) if module == "" else (small.inner, small)
    assert (changed.heads, same.heads, dense.heads, dense.inner.heads) == (3, 4, 4, 4)


@pytest.mark.parametrize(
    ("module", "attribute", "size"),
    [
        ("", "heads", 5),
        ("", "scale", 4),
        ("", "last", 1),
        ("", "none", 4),
        ("", "shape", 4),
        ("", "shape.2", 4),
        ("fc", "in_features", 4),
        ("none", "x", 4),
    ],
)
def test_only_a_size_of_that_value_changes(module: str, attribute: str, size: int) -> None:
    with pytest.raises(PlanError, match=f"^rewrite: {f'{module}.{attribute}'.lstrip('.')} must"):
        rewrite(Sized(), [Resize(module, attribute, size, 1)])


@pytest.mark.parametrize("kind", [tuple, list])
def test_one_of_several_sizes_changes(kind: type) -> None:
    dense = Sized()
    dense.shape = kind(dense.shape)
    small = rewrite(dense, [Resize("", "shape.1", 4, 3)])
    assert (small.shape, dense.shape) == (kind((4, 3)), kind((4, 4)))


def test_a_size_within_what_was_dropped_is_gone() -> None:
    dense = nn.Sequential(Sized(), nn.Identity())
    assert isinstance(rewrite(dense, [Drop("0", ("0",)), Resize("0", "heads", 4, 3)])[1], nn.Identity)
