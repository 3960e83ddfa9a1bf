"""What a hard case is: a tiny network, its inputs, and what thinking (not running) says about it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from squeeze.task import Inputs

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, FrozenBatchNorm2d)
CLASSES = 5


@dataclass(frozen=True)
class Case:
    """One hard structure.

    Attributes:
        build: The network, seeded, in eval mode, with normalisations that do something.
        inputs: Example inputs, float32.
        removable: Parameters of whose dim 0 at least one index must be removable.
        pinned: Parameters of whose dim 0 every index must stay.
        exact: Every group must be exact; False where statistics may run over a cut dimension.
        blocks: For every residual block the module or parameter whose zeroing makes its output zero; None if no
            claim is made.
        branches: The same for every branch of a concatenation.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    removable: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    exact: bool = True
    blocks: tuple[str, ...] | None = None
    branches: tuple[str, ...] | None = None


def seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A builder that gives the same network each time and leaves the global generator alone."""

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = make()
            randomise(model)
        return model.eval()

    return build


def randomise(model: nn.Module, gain: float = 2.0) -> None:
    """Give weights and statistics values under which removing differs from masking if anything is wrong."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
                for weight in module.parameters(recurse=False):
                    weight.mul_(gain)
            if not isinstance(module, (*NORMS, nn.PReLU)):
                continue
            for name, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                if name in ("weight", "running_var"):
                    value.uniform_(0.5, 1.5)
                elif value.is_floating_point():
                    value.normal_(0, 0.5)


def noise(*shape: int, seed: int = 2) -> Callable[[], Tensor]:
    """Seeded normal inputs of one shape."""
    return lambda: torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tokens(*shape: int, vocabulary: int) -> Callable[[], Tensor]:
    """Seeded token numbers of one shape."""
    return lambda: torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(2))


class Around(nn.Module):
    """conv1, bn1, ReLU, then the hard part, then conv2, ReLU, pooling and a head.

    Args:
        middle: A function or module from `width` to `out` channels.
        width: Channels before the hard part.
        out: Channels after it; `width` if None.
    """

    def __init__(self, middle: Callable[[Tensor], Tensor], width: int = 16, out: int | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.middle = middle
        self.conv2 = nn.Conv2d(width if out is None else out, 8, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.conv2(self.middle(x)))
        return self.head(x.mean((2, 3)))


def around(
    middle: Callable[[], Callable[[Tensor], Tensor]],
    width: int = 16,
    out: int | None = None,
    removable: tuple[str, ...] = ("conv1.weight", "conv2.weight"),
    pinned: tuple[str, ...] = ("head.weight",),
    exact: bool = True,
) -> Case:
    """A case of `Around` on 8 × 8 images."""
    return Case(seeded(lambda: Around(middle(), width, out)), noise(2, 3, 8, 8), removable, pinned, exact)


def function(middle: Callable[[Tensor], Tensor], **claims: object) -> Case:
    """As `around`, for a hard part without parameters."""
    return around(lambda: middle, **claims)  # type: ignore[arg-type]
