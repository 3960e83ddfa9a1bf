"""What `squeeze paths` and `squeeze detect` do between parsing and printing."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from squeeze.detection import Detection, Threats, load_detector
from squeeze.detection import detect as judge
from squeeze.detection.page import render_detection
from squeeze.errors import InputError
from squeeze.files import write_text
from squeeze.folders import require_writable
from squeeze.gating.codes import gather, load_codes
from squeeze.gating.inputs import samples_from
from squeeze.models import Opened
from squeeze.paths import Asked, Paths, find_paths
from squeeze.paths.page import render_paths
from squeeze.progress import say
from squeeze_cli.given import Guard, Look, Source
from squeeze_cli.opening import check_free, opened

DETECTION = ("detection.json", "detection.html", "detector.safetensors")
PATHS = ("codes.safetensors", "paths.json", "paths.html")


def looked_at(source: Source, look: Look, out: Path | None, force: bool) -> Paths:
    """The paths of a gated network; written to a folder if there is one.

    Raises:
        InputError: The model has no gates, there is no data, or a file is there already, or cannot be.
        ArtifactError: The codes are damaged, or of another network.
    """
    # Codes that were read are not written again.
    written = PATHS[1:] if look.codes else PATHS
    if out is not None:
        _require_room(out, written, force)
    target = opened(source)
    known = load_codes(look.codes, target.model) if look.codes else None
    found = find_paths(target.model, target.task, Asked(look.most, look.sample, look.silence), known)
    for note in found.notes:
        say(note)
    if out is not None:
        if known is None:
            found.codes.save(out / PATHS[0], target.model)
        write_text(out / PATHS[1], json.dumps(found.to_dict(), indent=1))
        write_text(out / PATHS[2], render_paths(found, _name(target)))
    return found


def defended(source: Source, guard: Guard, out: Path | None, force: bool) -> Detection:
    """Attacks and how well they are found; written to a folder if there is one.

    Raises:
        InputError: The model has no gates, it or its data cannot be attacked, or a file is there already, or cannot be.
    """
    if out is not None:
        _require_room(out, DETECTION, force)
    target = opened(source)
    found = judge(target.model, target.task, Threats(guard.epsilon, guard.most, guard.per_class))
    for note in found.notes:
        say(note)
    if out is not None:
        write_text(out / DETECTION[0], json.dumps(found.to_dict(), indent=1))
        write_text(out / DETECTION[1], render_detection(found, _name(target)))
        if found.detector is not None:
            found.detector.save(out / DETECTION[2])
        else:  # none of an earlier time beside what is new
            (out / DETECTION[2]).unlink(missing_ok=True)
    return found


@dataclass(frozen=True)
class Flagged:
    """Inputs that a detector takes for attacks.

    Attributes:
        source: Where the inputs are from.
        inputs: How many there are.
        flagged: The numbers of those.
    """

    source: str
    inputs: int
    flagged: tuple[int, ...]

    def __str__(self) -> str:
        numbers = f": {' '.join(map(str, self.flagged))}" if self.flagged else ""
        return f"{len(self.flagged)} of {self.inputs} inputs ({self.source}) look attacked{numbers}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def screened(source: Source, guard: Guard, detector: Path, out: Path | None) -> Flagged:
    """What a detector that was kept says of the data, as it is.

    Raises:
        InputError: There is no data, or `out` was given.
        ArtifactError: The detector is damaged, or was fitted to another network.
    """
    if out is not None:
        raise InputError(f"--out: must be left out with --detector, which writes nothing, got {out}; drop one of them.")
    target = opened(source)
    kept = load_detector(detector, target.model)
    where, batches = samples_from(target.task, ("test", "holdout", "train"), guard.most)
    codes = gather(target.model, target.task, batches)
    numbers = kept.flags(codes).nonzero()[0].tolist()
    return Flagged(where, len(codes), tuple(numbers))


def _require_room(out: Path, names: Sequence[str], force: bool) -> None:
    for name in names:
        check_free(out / name, force)
    require_writable(out)


def _name(target: Opened) -> str:
    return str(target.about.get("arch") or type(target.model).__name__)
