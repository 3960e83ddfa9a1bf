"""squeeze's k-means over all kernels of ResNet-56, beside scikit-learn's: how good, and how fast.

`python -m benchmarks.bench_kmeans WEIGHTS` prints one line. README.md says what it found.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.cluster import KMeans
from torch import nn

import squeeze
from examples.classifiers.model import resnet56
from squeeze.nn import ClusteredConv2d


def main(arguments: Sequence[str] | None = None) -> None:
    """A quarter of the kernels of each input channel of the 54 convolutions behind the first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_kmeans", description=__doc__)
    parser.add_argument("weights", type=Path, help="folder of the pretrained weights")
    torch.set_num_threads(1)
    place = parser.parse_args(arguments).weights / "resnet56-4bfd9763.th"
    model = squeeze.load_into(resnet56(), squeeze.read_weights(place))
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)][1:]
    ours, theirs = [0.0, 0.0], [0.0, 0.0]
    for conv in convs:
        clusters = conv.out_channels // 4
        begin = time.perf_counter()
        found = ClusteredConv2d.from_conv(conv, [clusters] * conv.in_channels).dense_weight()
        ours[1] += time.perf_counter() - begin
        ours[0] += float((conv.weight - found).detach().square().sum())
        kernels = conv.weight.detach().transpose(0, 1).flatten(2).numpy()
        begin = time.perf_counter()
        theirs[0] += sum(KMeans(clusters, n_init=10, random_state=0).fit(channel).inertia_ for channel in kernels)
        theirs[1] += time.perf_counter() - begin
    print(
        f"{len(convs)} convolutions, one thread: inertia {ours[0] / theirs[0]:.4f} of scikit-learn's (n_init=10), "
        f"{ours[1]:.2f} s and {theirs[1]:.1f} s: {theirs[1] / ours[1]:.0f} times as fast"
    )


if __name__ == "__main__":
    main()
