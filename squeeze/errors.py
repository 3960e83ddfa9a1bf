"""Everything squeeze raises on purpose, and how messages repeat what a file says.

Messages have one form: *where: what must be, what was got; what to do*.
"""


class SqueezeError(Exception):
    """Base of every error that squeeze raises on purpose."""


class InputError(SqueezeError):
    """Something the user handed over (data, architecture, weights, a path) does not fit."""


class TraceError(SqueezeError):
    """The model could not be run on labels, or ran differently from one run to the next."""


class PlanError(SqueezeError):
    """A plan cannot be read, or does not fit the model it is replayed on."""


class BudgetError(SqueezeError):
    """The budget asks for more than can be removed."""


class TrainingError(SqueezeError):
    """A training run cannot go on; its last good checkpoint is kept."""


class ProcessError(SqueezeError):
    """Another process of the same run is gone or failed, and this one cannot go on alone."""


class ArtifactError(SqueezeError):
    """A file is not an artefact of squeeze, or was damaged or altered."""


class ExportError(SqueezeError):
    """The exported model does not compute what the PyTorch model computes."""


class NoEffectWarning(UserWarning):
    """A pass ran and changed nothing."""


def quoted(words: object, limit: int = 200) -> str:
    """What a file says, fit for a message: one line, not too long, nothing that a terminal would obey."""
    text = str(words)
    return "".join(letter if letter.isprintable() else "?" for letter in text[:limit]) + ("…" * (len(text) > limit))
