"""Real networks with random weights: `ZOO`, by name. Small inputs where the network allows them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import detection, segmentation

from examples.classifiers import model as classifiers
from tests.models.case import Case, noise, randomise


@dataclass(frozen=True)
class Zoo:
    """A real network.

    Attributes:
        case: Builder, inputs, and what must be found.
        slow: Left out of the quick suite.
        edges: (pattern of a parameter's name, how many input channels its convolutions read in all).
    """

    case: Case
    slow: bool = False
    edges: tuple[str, int] | None = field(default=None)


class Images(nn.Module):
    """A detector, called with a batch of images of one size, that returns tensors.

    Args:
        detector: Takes a list of images.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        return self.detector(list(x))


def lively(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A seeded builder whose normalisations and layer scales do something, and whose head is not zero."""

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = make()
            randomise(model, gain=1.0)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name.endswith("layer_scale"):
                        parameter.uniform_(0.5, 1.5)
                    elif parameter.dim() > 1 and not parameter.any():
                        parameter.normal_(0, 0.05)
        return model.eval()

    return build


def vision(name: str, size: int = 64, **claims: object) -> Case:
    """A torchvision classifier with ten classes."""
    extra = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    build = lively(lambda: models.get_model(name, weights=None, num_classes=10, **extra))
    return replace(Case(build, noise(1, 3, size, size)), **claims)


def small(make: Callable[[], nn.Module], shape: tuple[int, ...] = (1, 3, 32, 32), **claims: object) -> Case:
    """A network of the classifiers' example."""
    return replace(Case(lively(make), noise(*shape)), **claims)


def deeplab() -> nn.Module:
    return segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)


def detector() -> nn.Module:
    make = detection.fasterrcnn_mobilenet_v3_large_320_fpn
    return Images(make(weights=None, weights_backbone=None, num_classes=5, box_score_thresh=0.0))


def detector_backbone() -> nn.Module:
    return detector().detector.backbone


def last_norms(stages: tuple[int, ...], norm: str) -> tuple[str, ...]:
    """The last BN of every block of a ResNet."""
    return tuple(f"layer{stage}.{b}.{norm}" for stage, count in enumerate(stages, 1) for b in range(count))


def branch_ends() -> tuple[str, ...]:
    """The last BN of every branch of the classifiers' GoogLeNet."""
    ends = ("branch1.1", "branch2.1.1", "branch3.2.1", "branch4.1.1")
    modules = [f"stages.{stage}.{number}" for stage, count in enumerate((2, 5, 2)) for number in range(count)]
    return tuple(f"{module}.{end}" for module in modules for end in ends)


def inception_ends() -> tuple[str, ...]:
    """The last BN of every branch of torchvision's GoogLeNet."""
    ends = ("branch1.bn", "branch2.1.bn", "branch3.1.bn", "branch4.1.bn")
    return tuple(f"inception{name}.{end}" for name in "3a 3b 4a 4b 4c 4d 4e 5a 5b".split() for end in ends)


def residual(depth: int) -> Case:
    """A CIFAR ResNet: all inner channels, and the trunk's 16 channels that run through all stages."""
    inner = tuple(f"layer{stage}.{b}.conv1.weight" for stage in (1, 2, 3) for b in range((depth - 2) // 6))
    ends = last_norms(((depth - 2) // 6,) * 3, "bn2")
    return small(
        lambda: classifiers.ResNet(depth),
        removable=("conv1.weight", *inner),
        pinned=("linear.weight",),
        blocks=ends,
        branches=(),
    )


def vgg_filters() -> tuple[str, ...]:
    """Every convolution and the hidden linear layer of the classifiers' VGG-16."""
    convolutions = [name for name, p in classifiers.vgg16().named_parameters() if p.dim() == 4]
    return (*convolutions, "fc1.weight")


RESNET50 = ("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer4.2.conv3.weight")

ZOO: dict[str, Zoo] = {
    "resnet20": Zoo(residual(20)),
    "resnet56": Zoo(residual(56)),
    "resnet110": Zoo(residual(110)),
    "cifar_vgg16": Zoo(
        small(classifiers.vgg16, removable=vgg_filters(), pinned=("fc2.weight",), blocks=(), branches=())
    ),
    "densenet40": Zoo(small(classifiers.densenet40, pinned=("fc.weight",), blocks=()), edges=("features.*", 8904)),
    "cifar_googlenet": Zoo(small(classifiers.googlenet, pinned=("fc.weight",), blocks=(), branches=branch_ends())),
    "lenet": Zoo(
        small(
            classifiers.lenet,
            (1, 1, 28, 28),
            removable=("conv1.weight", "conv2.weight", "fc1.weight"),
            pinned=("fc2.weight",),
        )
    ),
    "resnet18": Zoo(vision("resnet18", pinned=("fc.weight",), blocks=last_norms((2, 2, 2, 2), "bn2"), branches=())),
    "resnet50": Zoo(
        vision(
            "resnet50",
            removable=RESNET50,
            pinned=("fc.weight",),
            blocks=last_norms((3, 4, 6, 3), "bn3"),
            branches=(),
        )
    ),
    "resnext50": Zoo(
        vision("resnext50_32x4d", pinned=("fc.weight",), blocks=last_norms((3, 4, 6, 3), "bn3")), slow=True
    ),
    "vgg16": Zoo(vision("vgg16", 32, removable=("features.0.weight", "classifier.3.weight")), slow=True),
    "vgg16_bn": Zoo(vision("vgg16_bn", 32, removable=("features.0.weight", "classifier.3.weight")), slow=True),
    "densenet121": Zoo(vision("densenet121", removable=("features.denseblock1.denselayer1.conv1.weight",)), slow=True),
    "googlenet": Zoo(vision("googlenet", pinned=("fc.weight",), branches=inception_ends()), slow=True),
    "mobilenet_v2": Zoo(vision("mobilenet_v2", removable=("features.2.conv.0.0.weight", "features.2.conv.1.0.weight"))),
    "mobilenet_v3_small": Zoo(vision("mobilenet_v3_small", removable=("features.1.block.1.fc1.weight",))),
    "mobilenet_v3_large": Zoo(vision("mobilenet_v3_large", removable=("features.2.block.1.0.weight",)), slow=True),
    "shufflenet_v2": Zoo(vision("shufflenet_v2_x1_0", removable=("stage2.0.branch2.0.weight", "conv5.0.weight"))),
    "efficientnet_b0": Zoo(vision("efficientnet_b0", removable=("features.2.0.block.0.0.weight",)), slow=True),
    "convnext_tiny": Zoo(vision("convnext_tiny", removable=("features.1.0.block.3.weight",), exact=False), slow=True),
    "vit_b_16": Zoo(
        vision("vit_b_16", 224, removable=("encoder.layers.encoder_layer_0.mlp.0.weight",), exact=False), slow=True
    ),
    "swin_t": Zoo(vision("swin_t", removable=("features.1.0.mlp.0.weight",), exact=False), slow=True),
    "deeplab_v3": Zoo(
        Case(lively(deeplab), noise(1, 3, 64, 64), ("classifier.1.weight",), ("classifier.4.weight",)), slow=True
    ),
    "faster_rcnn_backbone": Zoo(
        Case(lively(detector_backbone), noise(1, 3, 64, 64), ("body.2.block.1.0.weight",), ()), slow=True
    ),
    "faster_rcnn": Zoo(
        Case(
            lively(detector),
            noise(1, 3, 64, 64),
            ("detector.backbone.body.2.block.1.0.weight", "detector.roi_heads.box_head.fc7.weight"),
            ("detector.roi_heads.box_predictor.cls_score.weight",),
            exact=False,
        ),
        slow=True,
    ),
}
