"""Small pictures of inputs that are images."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.image import imsave
from torch import Tensor

from squeeze.gating.inputs import image_of
from squeeze.task import Batch

SIDE = 64
"""The most pixels on a side."""


def pictures_of(batches: Sequence[Batch], numbers: set[int]) -> dict[int, bytes]:
    """Inputs by number, as PNG files.

    What the pixels were before they were normalised nobody says: black and white are the least and the largest value
    of each channel in these batches.

    Args:
        batches: The data; a batch must hold one tensor (N, C, H, W) with one or three channels.
        numbers: Which inputs, counted through all batches.

    Returns:
        Empty where inputs are no images.
    """
    images = [image_of(batch) for batch in batches]
    found = [image for image in images if image is not None and image.shape[1] in (1, 3)]
    if not found or len(found) < len(images):
        return {}
    low = torch.stack([image.amin((0, 2, 3)) for image in found]).amin(0)[:, None, None]
    high = torch.stack([image.amax((0, 2, 3)) for image in found]).amax(0)[:, None, None]
    pictures, first = {}, 0
    for image in found:
        for number in range(first, first + len(image)):
            if number in numbers:
                pictures[number] = _png((image[number - first] - low) / (high - low).clamp_min(1e-12))
        first += len(image)
    return pictures


def _png(image: Tensor) -> bytes:
    step = max(1, -(-max(image.shape[1:]) // SIDE))
    pixels = image[:, ::step, ::step].float().cpu().permute(1, 2, 0).numpy()
    shades = np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray((shades.clip(0, 1) * 255).round().astype(np.uint8)), format="png")
    return buffer.getvalue()
