"""A detector of attacks that can be kept: a logistic regression on codes."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from torch import nn

from squeeze.errors import ArtifactError, InputError, quoted
from squeeze.files import read_bytes, write_bytes
from squeeze.gating.codes import Codes
from squeeze.weights import checksum

KIND = "detector of attacks"
ALARMS = 0.05
"""The share of clean inputs that may be taken for attacks."""
_FOLDS = 10
"""The more, the more do those that are fitted without one resemble the one that is kept."""


@dataclass(frozen=True, eq=False)
class Detector:
    """Tells attacked inputs by which filters they switch on.

    Attributes:
        layers: Names of the gated convolutions whose codes it reads, in the model's order.
        filters: How many each has; they sum up to F.
        checksum: Of the weights of the network that it was fitted to.
        weight: (F,) float64 of each filter that is on.
        bias: Of all.
        threshold: From which score on an input counts as attacked.
    """

    layers: tuple[str, ...]
    filters: tuple[int, ...]
    checksum: str
    weight: np.ndarray
    bias: float
    threshold: float

    def scores(self, codes: Codes) -> np.ndarray:
        """(S,) how much each input looks attacked: the log-odds, with as many attacked as clean ones.

        Raises:
            InputError: The codes are of other layers.
        """
        if (codes.layers, codes.filters) != (self.layers, self.filters):
            raise InputError(
                f"detector: must be given codes of the {len(self.layers)} layers that it was fitted to, got others; "
                "gather them with the same network."
            )
        found: np.ndarray = codes.on @ self.weight + self.bias
        return found

    def flags(self, codes: Codes) -> np.ndarray:
        """(S,) bool, which inputs count as attacked."""
        found: np.ndarray = self.scores(codes) > self.threshold
        return found

    def save(self, path: Path | str) -> Path:
        """Write one file, atomically; `load_detector` reads it."""
        arrays = {
            "weight": self.weight.astype(np.float64),
            "filters": np.array(self.filters, dtype=np.int64),
            "numbers": np.array([self.bias, self.threshold], dtype=np.float64),
        }
        metadata = {"squeeze": KIND, "layers": "\n".join(self.layers), "checksum": self.checksum}
        write_bytes(Path(path), serialize(arrays, metadata))
        return Path(path)


def fitted(clean: Codes, attacked: Codes, origins: np.ndarray, model: nn.Module) -> Detector:
    """A detector from clean inputs and attacked ones.

    The threshold is such that one in twenty clean inputs exceeds it, scored by detectors that were fitted neither on
    them nor on what attacks made of them.

    Args:
        clean: Codes of inputs as they are.
        attacked: Codes of inputs that were attacked with success.
        origins: (A,) the numbers of the clean inputs that these were.
        model: That the codes are of.
    """
    features = np.concatenate([clean.on, attacked.on]).astype(np.float64)
    labels = np.repeat([0, 1], [len(clean), len(attacked)])
    head = LogisticRegression(C=0.1, max_iter=200, class_weight="balanced")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a score need not be the best one
        head.fit(features, labels)
        scores = features @ head.coef_[0] + head.intercept_[0]
        count = min(_FOLDS, len(np.unique(origins)))
        if count > 2:
            folds = StratifiedGroupKFold(count, shuffle=True, random_state=0)
            groups = np.concatenate([np.arange(len(clean)), origins])
            scores = cross_val_predict(head, features, labels, groups=groups, cv=folds, method="decision_function")
    threshold = float(np.quantile(scores[labels == 0], 1 - ALARMS))
    weights = checksum(model.state_dict())
    return Detector(clean.layers, clean.filters, weights, head.coef_[0], float(head.intercept_[0]), threshold)


def load_detector(path: Path | str, model: nn.Module) -> Detector:
    """Read a file that `Detector.save` wrote.

    Args:
        path: Of the file.
        model: Whose codes it is to judge.

    Raises:
        ArtifactError: Not such a file, damaged, or fitted to another network.
    """
    path = Path(path)
    raw = read_bytes(path, f"a {KIND}", ArtifactError)
    try:
        arrays = parse(raw)
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
        layers, filters = tuple(metadata["layers"].split("\n")), tuple(int(count) for count in arrays["filters"])
        bias, threshold = (float(number) for number in arrays["numbers"])
        found = Detector(layers, filters, metadata["checksum"], arrays["weight"], bias, threshold)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: must be a {KIND}, got another or a damaged file ({quoted(error)}).") from error
    whole = (
        metadata.get("squeeze") == KIND
        and len(layers) == len(filters)
        and found.weight.shape == (sum(filters),)
        and bool(np.isfinite([*found.weight, bias, threshold]).all())
    )
    if not whole:
        raise ArtifactError(f"{path}: must be a whole {KIND}, got numbers that do not fit; fit it again.")
    if found.checksum != checksum(model.state_dict()):
        raise ArtifactError(
            f"{path}: must be fitted to these weights of {type(model).__name__}, got a {KIND} for others; fit it again "
            "with squeeze detect."
        )
    return found
