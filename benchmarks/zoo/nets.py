"""The zoo: how each architecture of `nets.txt` is built, with random weights, and what it is called with."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LIST = Path(__file__).with_name("nets.txt")


@dataclass(frozen=True)
class Net:
    """An architecture with its inputs.

    Attributes:
        name: ``source:architecture``.
        build: Makes it: the same numbers each time, in eval mode.
        inputs: What it is called with.
        training: What it is called with in training mode.
        shapes: How many results there are depends on nothing but the inputs' shapes (a detector's do not).
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Any
    training: Any
    shapes: bool = True


def listed(path: Path = LIST) -> dict[str, str]:
    """The lines of the list by the name of the net; ``#`` begins a comment."""
    lines = (line.partition("#")[0].split() for line in path.read_text(encoding="utf-8").splitlines())
    return {":".join(words[:2]): " ".join(words) for words in lines if words}


def net(line: str) -> Net:
    """A net from ``source architecture size option=value …``; the size is that of a sample, as ``3x64x64``."""
    source, name, size, *words = line.split()
    options = {key: _value(text) for key, _, text in (word.partition("=") for word in words)}
    return SOURCES[source](name, tuple(int(n) for n in size.split("x")), options)


def _value(text: str) -> Any:
    if "," in text:
        return tuple(_value(part) for part in text.split(",") if part)
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return {"True": True, "False": False, "None": None}.get(text, text)


def lively(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A seeded builder in whose models nothing is 0, 1 or tiny throughout, so that a misplaced channel shows."""

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = make()
            with torch.no_grad():
                for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                    if tensor.is_floating_point() and tensor.numel() > 1:
                        _stir(name.rpartition(".")[2], tensor)
        return model.eval()

    return build


def _stir(name: str, tensor: Tensor) -> None:
    constant = bool((tensor == tensor.flatten()[0]).all())
    if constant and (bool(tensor.any()) or name == "running_var"):
        tensor.uniform_(0.5, 1.5)
    elif constant:
        tensor.normal_(0, 0.1 if tensor.dim() == 1 else 0.02)


def _noise(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _images(name: str, make: Callable[[], nn.Module], size: tuple[int, ...]) -> Net:
    return Net(name, lively(make), _noise(1, *size), _noise(2, *size, seed=3))


def torchvision_net(name: str, size: tuple[int, ...], options: dict[str, Any]) -> Net:
    """Classifiers, segmentation and video."""
    from torchvision import models

    own = {"num_classes": 10, "weights": None, **options}
    if name in ("googlenet", "inception_v3"):
        own |= {"init_weights": False}
    if name.startswith(("deeplab", "fcn", "lraspp")):
        own |= {"weights_backbone": None}
    return _images(f"torchvision:{name}", lambda: models.get_model(name, **own), size)


def detector(name: str, size: tuple[int, ...], options: dict[str, Any]) -> Net:
    """Detectors: a list of images in, losses out in training mode."""
    from torchvision import models

    width = max(size)
    own: dict[str, Any] = {"num_classes": 4, "weights": None, "weights_backbone": None}
    if not name.startswith("ssd"):
        own |= {"min_size": min(size[1:]), "max_size": width}
    if "rcnn" in name:  # nothing is suppressed or below a threshold: as many regions, whatever the weights are
        own |= {"rpn_nms_thresh": 1.0, "rpn_post_nms_top_n_test": 20, "box_score_thresh": -1.0, "box_nms_thresh": 1.0}
        own |= {"box_detections_per_img": 10, "bbox_reg_weights": (1e3, 1e3, 1e3, 1e3)}  # no box is moved to nothing
    image = torch.rand(size, generator=torch.Generator().manual_seed(2))
    corners = torch.tensor([[4.0, 4.0, width / 2, width / 2], [width / 4, 8.0, width - 4.0, width - 2.0]])
    target = {"boxes": corners, "labels": torch.tensor([1, 2]), "masks": torch.ones(2, *size[1:], dtype=torch.uint8)}
    keypoints = torch.full((2, 17, 3), width / 3)
    keypoints[:, :, 2] = 1
    target["keypoints"] = keypoints
    build = lively(lambda: models.get_model(name, **own, **options))
    return Net(f"detector:{name}", build, ([image],), ([image, image], [target, target]), shapes=False)


def flow(name: str, size: tuple[int, ...], options: dict[str, Any]) -> Net:
    """RAFT: two images."""
    from torchvision import models

    pair, more = (_noise(1, *size), _noise(1, *size, seed=3)), (_noise(2, *size), _noise(2, *size, seed=3))
    build = lively(lambda: models.get_model(name, weights=None))
    return Net(f"flow:{name}", build, {**_pair(pair), **options}, {**_pair(more), **options})


def _pair(images: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return {"image1": images[0], "image2": images[1]}


def timm_net(name: str, size: tuple[int, ...], options: dict[str, Any]) -> Net:
    """Whatever timm has."""
    import timm

    own = {"num_classes": 10, "pretrained": False, **options}
    return _images(f"timm:{name}", lambda: timm.create_model(name, **own), size)


def transformer(name: str, size: tuple[int, ...], options: dict[str, Any]) -> Net:
    """Networks of Hugging Face transformers, from their configurations."""
    import transformers

    config, inputs = options.pop("config"), options.pop("inputs")
    own = {k: v for k, v in options.items()}

    def make() -> nn.Module:
        return getattr(transformers, name)(getattr(transformers, config)(**own))

    def given(batch: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(batch)
        found = {}
        for kind in inputs if isinstance(inputs, tuple) else (inputs,):
            if kind.endswith("ids"):
                found[kind] = torch.randint(3, own.get("vocab_size", 90), (batch, 7), generator=generator)
            else:
                found[kind] = torch.randn(batch, *size, generator=generator)
        return found

    return Net(f"transformers:{name}", lively(make), given(1), given(2))


SOURCES: dict[str, Callable[[str, tuple[int, ...], dict[str, Any]], Net]] = {
    "torchvision": torchvision_net,
    "detector": detector,
    "flow": flow,
    "timm": timm_net,
    "transformers": transformer,
}
