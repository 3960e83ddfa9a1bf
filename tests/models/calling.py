"""How models are called, and what they return."""

from collections import namedtuple
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.models.case import CLASSES, Case, noise, seeded

Pair = namedtuple("Pair", ["logits", "hidden"])


@dataclass
class Detection:
    """A nested output, as libraries of transformers return."""

    logits: Tensor
    pyramid: tuple[Tensor, dict[str, Tensor]]
    loss: Tensor | None = None


class Net(nn.Module):
    """Two convolutions and a head; subclasses choose the signature and the output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 12, 3, padding=1)
        self.head = nn.Linear(12, CLASSES)

    def early(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn1(self.conv1(x)))

    def late(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.late(self.early(x)).mean((2, 3)))


class Several(nn.Module):
    """Two inputs of different kinds, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.image = Net()
        self.vector = nn.Linear(6, 12)
        self.box = nn.Linear(12, 4)

    def forward(self, image: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        x = self.image.late(self.image.early(image)).mean((2, 3)) * torch.sigmoid(self.vector(vector))
        return self.image.head(x), self.box(x)


class Keywords(Several):
    """The same, called by keyword and with a default."""

    def forward(self, *, image: Tensor, vector: Tensor, scale: float = 2.0) -> Tensor:  # type: ignore[override]
        return scale * super().forward(image, vector)[0]


class OneDict(Several):
    """A dict as the only argument."""

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        logits, box = super().forward(batch["image"], batch["vector"])
        return {"logits": logits, "box": box}


class ListOfImages(Net):
    """Detectors take a list of images."""

    def forward(self, images: list[Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(torch.stack(images))


class DictOutput(Net):
    """Logits and the maps of a middle layer: what is returned stays whole."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        early = self.early(x)
        return {"logits": self.head(self.late(early).mean((2, 3))), "early": early}


class NamedOutput(Net):
    """A named tuple that holds hidden features."""

    def forward(self, x: Tensor) -> Pair:  # type: ignore[override]
        hidden = self.late(self.early(x)).mean((2, 3))
        return Pair(self.head(hidden), hidden)


class NestedOutput(Net):
    """A dataclass of a tuple of a dict."""

    def forward(self, x: Tensor) -> Detection:  # type: ignore[override]
        late = self.late(self.early(x))
        return Detection(self.head(late.mean((2, 3))), (x, {"late": late}))


class ScalarLoss(Net):
    """A scalar beside the logits, of the logits (exact) or of hidden channels (a mean over what is cut).

    Args:
        hidden: Of hidden channels.
    """

    def __init__(self, hidden: bool) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        early = self.early(x)
        logits = self.head(self.late(early).mean((2, 3)))
        return logits, early.pow(2).mean() if self.hidden else logits.logsumexp(1).mean()


class TrainOnlyHead(Net):
    """An auxiliary head that runs in training mode alone, as GoogLeNet's do."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        early = self.early(x)
        logits = self.head(self.late(early).mean((2, 3)))
        return logits + self.aux(early.mean((2, 3))) if self.training else logits


class Caching(Net):
    """Keeps positions for the size it saw last in a buffer, and in eval mode what it computed of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(1), persistent=False)
        self.gain = nn.Parameter(torch.randn(16))
        self.kept: dict[str, Tensor] = {}

    def early(self, x: Tensor) -> Tensor:
        x = super().early(x)
        if len(self.rows) != x.shape[2]:
            self.rows = torch.linspace(0, 1, x.shape[2], dtype=x.dtype)
        gain = self.gain.exp() if self.training else self.kept.setdefault("gain", self.gain.exp())
        return x * gain.view(1, -1, 1, 1) + self.rows.view(-1, 1)


class Constants(Net):
    """Python numbers, None and a non-tensor among the outputs."""

    def forward(self, x: Tensor) -> tuple[Tensor, int, None, str]:  # type: ignore[override]
        return super().forward(x), 3, None, "done"


IMAGE, VECTOR = noise(2, 3, 8, 8), noise(2, 6)
BOTH = ("conv1.weight", "conv2.weight")
HEAD = ("head.weight",)
INNER = ("image.conv1.weight", "image.conv2.weight", "vector.weight")
HEADS = ("image.head.weight", "box.weight")

CALLING: dict[str, Case] = {
    "several_inputs": Case(seeded(Several), lambda: (IMAGE(), VECTOR()), INNER, HEADS),
    "keyword_inputs": Case(
        seeded(Keywords), lambda: {"image": IMAGE(), "vector": VECTOR()}, INNER, ("image.head.weight",)
    ),
    "dict_argument": Case(seeded(OneDict), lambda: ({"image": IMAGE(), "vector": VECTOR()},), INNER, HEADS),
    "list_argument": Case(seeded(ListOfImages), lambda: (list(IMAGE()),), BOTH, HEAD),
    "dict_output": Case(seeded(DictOutput), IMAGE, ("conv2.weight",), ("conv1.weight", "bn1.weight", *HEAD)),
    "named_output": Case(seeded(NamedOutput), IMAGE, ("conv1.weight",), ("conv2.weight", *HEAD)),
    "nested_output": Case(seeded(NestedOutput), IMAGE, ("conv1.weight",), ("conv2.weight", *HEAD)),
    "caching": Case(seeded(Caching), IMAGE, (*BOTH, "gain"), HEAD),
    "constant_outputs": Case(seeded(Constants), IMAGE, BOTH, HEAD),
    "scalar_output": Case(seeded(lambda: ScalarLoss(False)), IMAGE, BOTH, HEAD),
    "scalar_of_hidden": Case(seeded(lambda: ScalarLoss(True)), IMAGE, ("conv2.weight",), HEAD, exact=False),
    "train_only_head": Case(seeded(TrainOnlyHead), IMAGE, (), HEAD),
}
