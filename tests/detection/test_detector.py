"""A detector that is kept: what it learns, and what a file of it must be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from squeeze.detection import Detector, load_detector
from squeeze.detection.detector import fitted
from squeeze.errors import ArtifactError, InputError
from squeeze.gating.codes import Codes
from tests.gated_nets import quick_net, telling_net

LAYERS, FILTERS = ("0", "2"), (8, 16)


def made(on: np.ndarray) -> Codes:
    count = len(on)
    zeros = np.zeros(count, dtype=np.int64)
    return Codes(LAYERS, FILTERS, on, on.astype("f4"), zeros, zeros, np.zeros((count, 2), "f4"), np.ones(count, "f4"))


def noise(seed: int, count: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 24)) < 0.5


def attacked(seed: int) -> Codes:
    """Filter 3 is on, and filter 20 off, as they are by chance in one clean input of four."""
    on = noise(seed)
    on[:, 3], on[:, 20] = True, False
    return made(on)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return fitted(made(noise(0)), attacked(1), np.arange(200), quick_net())


def test_it_finds_what_tells_attacks(detector: Detector) -> None:
    assert np.argmax(detector.weight) == 3 and np.argmin(detector.weight) == 20
    assert detector.scores(attacked(3)).mean() > detector.scores(made(noise(2))).mean() + 1


def test_the_threshold_lets_one_clean_input_of_twenty_through(detector: Detector) -> None:
    flagged = detector.flags(made(noise(6, 4000))).mean()
    assert 0.01 < flagged < 0.1
    assert detector.flags(attacked(3)).mean() > 2 * flagged


def test_clean_inputs_are_not_scored_by_what_learnt_from_attacks_on_themselves() -> None:
    """Where an attack leaves most filters as they are, that would shift the threshold, and hide what it is for."""
    clean, fresh = noise(3, 300), noise(1, 4000)
    on, new = (np.tile(codes, (4, 1)) for codes in (clean, fresh))
    on[:, 3] = new[:, 3] = True
    detector = fitted(made(clean), made(on), np.tile(np.arange(300), 4), quick_net())
    assert 0.03 < detector.flags(made(fresh)).mean() < 0.08


def test_saved_and_loaded_it_is_the_same(detector: Detector, tmp_path: Path) -> None:
    path = detector.save(tmp_path / "new" / "detector.safetensors")
    again = load_detector(path, quick_net())
    assert (again.layers, again.filters, again.threshold) == (LAYERS, FILTERS, detector.threshold)
    assert np.array_equal(again.scores(made(noise(7))), detector.scores(made(noise(7))))


def test_codes_of_other_layers_are_refused(detector: Detector) -> None:
    codes = made(noise(0))
    other = Codes(
        ("0", "3"), FILTERS, *(getattr(codes, n) for n in ("on", "logits", "labels", "predicted")), *([codes.share] * 2)
    )
    with pytest.raises(InputError, match="codes of the 2 layers"):
        detector.scores(other)


def test_another_network_is_refused(detector: Detector, tmp_path: Path) -> None:
    path = detector.save(tmp_path / "detector.safetensors")
    retrained = quick_net()
    with torch.no_grad():
        retrained[-1].bias.add_(1)
    for model in (retrained, telling_net()):
        with pytest.raises(ArtifactError, match="must be fitted to these weights of Sequential"):
            load_detector(path, model)


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "shape", "nan", "kind", "deep filters", "deep numbers"])
def test_damaged_files_are_refused(detector: Detector, tmp_path: Path, damage: str) -> None:
    path = detector.save(tmp_path / "detector.safetensors")
    raw = path.read_bytes()
    arrays = load(raw)
    metadata = {"squeeze": "detector of attacks", "layers": "0\n2", "checksum": detector.checksum}
    if damage == "shape":
        raw = save({**arrays, "weight": arrays["weight"][1:].copy()}, metadata)
    if damage == "nan":
        raw = save({**arrays, "numbers": np.array([0.0, np.nan])}, metadata)
    if damage.startswith("deep"):
        name = damage.removeprefix("deep ")
        raw = save({**arrays, name: np.stack([arrays[name]] * 2)}, metadata)
    if damage == "kind":
        raw = save(arrays, {**metadata, "squeeze": "file of codes"})
    path.write_bytes({"cut": raw[: len(raw) // 2], "text": b"hello\n", "empty": b""}.get(damage, raw))
    with pytest.raises(ArtifactError, match="detector of attacks"):
        load_detector(path, quick_net())


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere.*no such file"):
        load_detector(tmp_path / "nowhere", quick_net())
