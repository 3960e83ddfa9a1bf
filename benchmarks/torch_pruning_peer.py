"""The same cut by Torch-Pruning (GroupMagnitude importance, L2, global): a peer to compare with.

Torch-Pruning moves channel indices unchanged through a zero-padding of channels, so in an option-A ResNet it cuts
channel i of every stage where channels i, i + 8 and i + 24 belong together: the small network runs, and computes
something else. The way out is its `ignored_layers`: what writes to the trunk is kept, and only inner channels go.
"""

import copy
from dataclasses import dataclass

import torch
import torch_pruning
from torch import Tensor, nn

RATIOS = tuple(step / 50 for step in range(1, 50))


@dataclass(frozen=True)
class PeerCut:
    """A cut found by trying ratios.

    Attributes:
        model: The small network.
        ratio: Of channels that went, as Torch-Pruning counts them.
        macs: What is left, as Torch-Pruning counts it.
    """

    model: nn.Module
    ratio: float
    macs: float


def trunk(model: nn.Module) -> list[nn.Module]:
    """What writes to the trunk of an option-A ResNet, and the head."""
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3) for block in stage]
    return [model.conv1, model.linear, *(block.conv2 for block in blocks)]


def cut(model: nn.Module, inputs: Tensor, ratio: float, round_to: int, whole: bool = False) -> nn.Module:
    """A copy with this ratio of channels gone; with `whole` the trunk is cut too, as without `ignored_layers`."""
    smaller = copy.deepcopy(model).eval()
    torch_pruning.pruner.BasePruner(
        smaller,
        inputs,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=[smaller.linear] if whole else trunk(smaller),
        round_to=round_to,
    ).step()
    with torch.no_grad():
        smaller(inputs)
    return smaller


def cut_to(model: nn.Module, inputs: Tensor, share: float, round_to: int, whole: bool = False) -> PeerCut:
    """The cut that leaves the most MACs within a share of the dense ones.

    With global ranking and rounding the MACs do not fall steadily with the ratio, so all ratios are tried.
    """
    dense, _ = torch_pruning.utils.count_ops_and_params(model, inputs)
    found: list[PeerCut] = []
    for ratio in RATIOS:
        smaller = cut(model, inputs, ratio, round_to, whole)
        macs, _ = torch_pruning.utils.count_ops_and_params(smaller, inputs)
        if macs <= share * dense:
            found.append(PeerCut(smaller, ratio, macs))
    if not found:
        raise ValueError(
            f"Torch-Pruning: a ratio must leave at most {share:.0%} of the MACs, got none of {len(RATIOS)}."
        )
    return max(found, key=lambda peer: peer.macs)
