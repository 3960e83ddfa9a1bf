"""From what was given on the command line to a model, and what the small commands do with it."""

import json
from pathlib import Path

import torch

from squeeze.errors import ArtifactError, InputError, SqueezeError, quoted
from squeeze.export import export_onnx, export_pt2
from squeeze.files import read_bytes, write_text
from squeeze.gating.activity import Spending, spent_on
from squeeze.models import Opened, open_model
from squeeze.report import Report, render
from squeeze_cli.given import Source

EXPORTERS = {".onnx": export_onnx, ".pt2": export_pt2}


def opened(source: Source) -> Opened:
    """The model, its data and its inputs.

    Raises:
        InputError: The file, the architecture or the data cannot be had, or do not fit.
        ArtifactError: An artefact is damaged, or of another architecture.
    """
    if source.threads is not None:
        torch.set_num_threads(source.threads)
    return open_model(source.model, source.arch, source.data, source.input_shape, source.trust_pickle)


def tested(target: Opened) -> dict[str, float]:
    """Metrics on the test set.

    Raises:
        InputError: There are no test data with labels.
    """
    metrics = target.task.evaluate(target.model, "test")
    if not metrics:
        raise InputError("eval: must have test data with labels, got none; add --data (see squeeze eval --help).")
    return metrics


def spent(target: Opened) -> Spending | None:
    """What single inputs cost a gated network; None without gates, or without data.

    Raises:
        InputError: The data do not fit the model.
    """
    found = spent_on(target.model, target.task, ("test", "holdout", "train"))
    return None if found is None else found[1]


def exported(source: Source, out: Path, force: bool) -> None:
    """Write a model as the format that the suffix names.

    Raises:
        InputError: An unknown suffix, or a file that is there without `force`.
        ExportError: The file does not compute what the model computes, or the model cannot be exported.
    """
    if out.suffix not in EXPORTERS:
        raise InputError(f"{out}: must end in {' or '.join(EXPORTERS)}, got {out.suffix or 'no suffix'!r}; rename it.")
    check_free(out, force)
    target = opened(source)
    EXPORTERS[out.suffix](target.model, target.task.example_inputs, out)


def check_free(path: Path, force: bool) -> None:
    """Nothing is overwritten unasked.

    Raises:
        InputError: The file is there, and `force` was not given.
    """
    if path.exists() and not force:
        raise InputError(f"{path}: must be a new file, got one that exists; choose another name or add --force.")


def rewritten_report(run: Path) -> Path:
    """Write report.html of a run from its report.json.

    Raises:
        InputError: The folder holds no report.json, or cannot be written to.
        ArtifactError: report.json is not a report.
    """
    source, page = run / "report.json", run / "report.html"
    raw = read_bytes(source, "the report of a run")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{source}: must be JSON, got text that is not ({_problem(error)}); prune again."
        ) from error
    try:
        text = render(Report.from_dict(data))
    except SqueezeError:
        raise
    except Exception as error:  # figures made up by somebody can break any picture in its own way
        raise ArtifactError(f"{source}: must be a report, got {_problem(error)} in drawing it; prune again.") from error
    write_text(page, text)
    return page


def _problem(error: Exception) -> str:
    return quoted(f"{type(error).__name__}: {error}")
