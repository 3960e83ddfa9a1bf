"""What a user can do about a pin, by its reason."""

import re

_SIZES = "take sizes in this line from tensors, as x.shape[1], not from numbers"

ADVICE = (
    ("must shrink together", _SIZES),
    (r"^(\w+\.)*\w*(Error|Exception|Interrupt|Exit|Warning): ", _SIZES),
    ("another order of them", "nothing: code or weights treat them differently by their places"),
    ("changes its shape", "nothing if the output is as wide as this is; else take sizes in forward from tensors"),
    ("not that of the masked model", "look in forward for a number that stands for a size, a mean by hand say"),
    ("does not train", "look in what runs in training only for a number that stands for a size"),
    ("model's output", "nothing: the output keeps its shape; if it is not needed, let forward not return it"),
    ("ignored", "drop the pattern from --ignore"),
    ("not used in a run", "pass example inputs that use it, or take it out of the model"),
    (
        "constant made in forward",
        "nothing for the input; let a tensor made in forward follow x.shape[1] of what it meets",
    ),
    ("padding, a constant or the input", "let a layer make what it is added to or joined with, instead of padding"),
    ("written into part", "concatenate the parts (torch.cat) in place of writing into a tensor"),
    ("indexed by a tensor", "nothing, unless slices can say the same"),
    ("used as an index", "nothing: which places are picked must not change"),
    ("picked one by one", "index by slices, or by one name for each channel that is needed"),
    ("reinterpreted", "nothing: views that change the data type depend on the size"),
    ("depends on its order", "nothing: sorting and cumulating need every channel"),
    ("mixes neighbours", "nothing: what is beside a removed one would move in its place"),
    ("attention runs over", "nothing: these are the places that are attended to, not channels"),
    ("convolved along", "nothing: a convolution slides along it; only channels can go"),
    ("statistics run over", "nothing: a normalisation takes its statistics along it; only channels can go"),
    ("runs over it", "nothing: these are positions, not channels"),
    ("steers", "nothing: it says where or how the operation computes"),
    (
        "deformable convolution",
        "nothing for offsets and masks; its channels can go where it has one group and one group of offsets",
    ),
    ("width of a group", "nothing inside of a group; whole groups can go, or let the convolution have groups=1"),
    ("its bias keeps its size", "let the bias be a parameter of the module, not a tensor made in forward"),
    ("belongs to channels that stay", "see why the channels that it is added to stay: it goes with them"),
    ("go together", "nothing: the operation reads all of them at once"),
    ("no rule for", "write it with other operations, or report the network"),
)
"""A pattern in the reason, and what can be done; the first that fits counts."""


def advice(reason: str) -> str:
    """What can be done about a pin; "" if nobody knows."""
    return next((text for part, text in ADVICE if re.search(part, reason)), "")
