"""How well attacks are told from clean inputs: by which classifier, from how many layers, and by outputs alone."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import AdaBoostClassifier, GradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from squeeze.detection.attacks import BIM, FGSM, PGD, Attack, DeepFool
from squeeze.detection.detector import Detector, fitted
from squeeze.detection.examples import Examples, examples, sides_of
from squeeze.gating.codes import Codes, joined
from squeeze.gating.costs import require_gates
from squeeze.task import Task

DEPTHS = 6
"""Numbers of first layers that are tried, at most."""

Scorer = Callable[[Codes], np.ndarray]
"""(S,) how much each input looks attacked."""


@dataclass(frozen=True)
class Verdict:
    """How well one attack is found.

    Attributes:
        attack: Its name.
        success: The share of the inputs seen rightly that it made the network see as something else.
        inputs: So many attacked inputs were judged.
        auc: By detector, the area under its ROC curve: 1 for perfect, 0.5 for chance. Empty where there was nothing to
            fit to or to judge.
        depth: By classifier and number of layers, the same from the codes of the first so many layers alone.
        flagged: The share that the detector which is kept takes for attacks; None where there is none.
    """

    attack: str
    success: float
    inputs: int
    auc: Mapping[str, float]
    depth: Mapping[str, Mapping[int, float]]
    flagged: float | None

    def by_depth(self) -> list[tuple[int, list[float]]]:
        """The numbers of layers, and for each the areas of all classifiers, in the order of `depth`."""
        counts = next(iter(self.depth.values()), {})
        return [(count, [areas[count] for areas in self.depth.values()]) for count in counts]


@dataclass(frozen=True, eq=False)
class Detection:
    """What `squeeze detect` found.

    Attributes:
        verdicts: Attack by attack.
        detector: Fitted to all attacks at once; None where none ever succeeded.
        alarms: The share of clean inputs that it flags.
        fit: Clean inputs that it was fitted on.
        judged: Clean inputs that it was judged by.
        sources: Where both are from.
        labelled: The data has labels; else what the network sees counts as right.
    """

    verdicts: tuple[Verdict, ...]
    detector: Detector | None
    alarms: float | None
    fit: int
    judged: int
    sources: tuple[str, str]
    labelled: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader should know."""
        told = []
        if not self.labelled:
            told.append("The data has no labels: what the network sees in an input counts as right.")
        if self.sources[1] != "test":
            told.append(f"There is no test data: detectors are judged by other inputs of the data ({self.sources[1]}).")
        never = [verdict.attack for verdict in self.verdicts if not verdict.auc]
        if never:
            told.append(
                f"{', '.join(never)} never made the network see something else, in fitting or in judging: there is "
                "nothing to detect; a larger epsilon may succeed."
            )
        return tuple(told)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "alarms": self.alarms,
            "fit": self.fit,
            "judged": self.judged,
            "sources": list(self.sources),
            "labelled": self.labelled,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Threats:
    """What to defend against, and by how much data.

    Attributes:
        epsilon: How far FGSM, PGD and BIM go, as a share of the range of each channel.
        most: Inputs to fit on, and as many to judge by.
        per_class: Fit on so many clean inputs of each class at most.
    """

    epsilon: float = 8 / 255
    most: int = 1000
    per_class: int | None = None

    def attacks(self) -> tuple[Attack, ...]:
        """FGSM, BIM, PGD, DeepFool."""
        return FGSM(self.epsilon), BIM(self.epsilon), PGD(self.epsilon), DeepFool()


def detect(
    model: nn.Module, task: Task, threats: Threats | None = None, attacks: tuple[Attack, ...] | None = None
) -> Detection:
    """Attack a gated network, fit detectors to its codes, and judge them by inputs that they were not fitted on.

    As in Critical Data Routing Paths (Wang et al., CVPR 2018), whose protocol the paper follows: classifiers learn to
    tell the codes of clean inputs from those of attacked ones, and are judged by test inputs that the network saw
    rightly before they were attacked. An input counts as attacked where the attack succeeded.

    Args:
        model: Gated; left as it is.
        task: Its data.
        threats: What to defend against.
        attacks: In place of those of `threats`.

    Raises:
        InputError: The model has no gates, there is no data, or it cannot be attacked.
    """
    require_gates(model, task.example_inputs)
    threats = threats or Threats()
    attacks = threats.attacks() if attacks is None else attacks
    sides = sides_of(task, threats.most)
    box = sides.box()
    known = examples(model, task, sides.fit, attacks, box, threats.per_class)
    new = examples(model, task, sides.judge, attacks, box)
    every = [codes for codes in known.attacked.values() if codes is not None]
    detector = None
    if every:
        detector = fitted(known.clean, joined(every), np.concatenate([*known.origins.values()]), model)
    return Detection(
        tuple(_verdict(attack.name, known, new, detector) for attack in attacks),
        detector,
        None if detector is None else float(detector.flags(new.clean).mean()),
        len(known.clean),
        len(new.clean),
        sides.sources,
        bool((new.clean.labels >= 0).all()),
    )


def auc(clean: np.ndarray, attacked: np.ndarray) -> float:
    """The chance that an attacked input has a larger score than a clean one; ties count half."""
    labels = np.repeat([0, 1], [len(clean), len(attacked)])
    return float(roc_auc_score(labels, np.concatenate([clean, attacked])))


def _verdict(name: str, known: Examples, new: Examples, detector: Detector | None) -> Verdict:
    learnt, judged = known.attacked[name], new.attacked[name]
    if learnt is None or judged is None or detector is None:
        return Verdict(name, new.success[name], 0 if judged is None else len(judged), {}, {}, None)

    def scored(scorer: Scorer) -> float:
        return auc(scorer(new.clean), scorer(judged))

    ends = {count: sum(judged.filters[:count]) for count in _depths(len(judged.layers))}
    depth = {
        label: {count: scored(_learnt(make(), _first(end), known.clean, learnt)) for count, end in ends.items()}
        for label, make in _CLASSIFIERS.items()
    }
    found = {label: by_count[len(judged.layers)] for label, by_count in depth.items()}
    found["logistic regression, logits"] = scored(_learnt(_scaled(), lambda codes: codes.logits, known.clean, learnt))
    found["the one that is kept"] = scored(detector.scores)
    found["distance to its class, no attack seen"] = scored(_off_the_path(known.clean))
    found["largest softmax, no codes"] = scored(lambda codes: -_softmax(codes.features).max(1))
    found["lead of the largest logit, no codes"] = scored(_uncertain)
    return Verdict(name, new.success[name], len(judged), found, depth, float(detector.flags(judged).mean()))


def _first(end: int) -> Scorer:
    """The codes of so many first filters, as numbers (S, end)."""
    return lambda codes: codes.on[:, :end].astype(np.float32)


def _depths(layers: int) -> list[int]:
    """Numbers of layers from one to all, evenly."""
    return sorted({round(count) for count in np.linspace(1, layers, min(DEPTHS, layers)).tolist()})


def _logistic() -> Any:
    return LogisticRegression(C=0.1, max_iter=200, class_weight="balanced")


def _scaled() -> Any:
    return make_pipeline(StandardScaler(), _logistic())


_CLASSIFIERS: Mapping[str, Callable[[], Any]] = {
    "random forest": lambda: RandomForestClassifier(200, class_weight="balanced", random_state=0),
    "AdaBoost": lambda: AdaBoostClassifier(random_state=0),
    "gradient boosting": lambda: GradientBoostingClassifier(max_features="sqrt", random_state=0),
    "logistic regression": _logistic,
}
"""On all codes: the three of the papers, and a plain one."""


def _learnt(classifier: Any, features: Scorer, clean: Codes, attacked: Codes) -> Scorer:
    first, second = features(clean), features(attacked)
    if np.array_equal(first.mean(0), second.mean(0)):
        return lambda codes: np.zeros(len(codes))  # nothing to learn from, which AdaBoost takes for an error
    labels = np.repeat([0, 1], [len(clean), len(attacked)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a score need not be the best one
        classifier.fit(np.concatenate([first, second]), labels)
    return lambda codes: np.asarray(classifier.predict_proba(features(codes))[:, 1])


def _off_the_path(clean: Codes) -> Scorer:
    """The distance of a code to the mean code of the class that the network sees; of all classes if that is new."""
    means = {label: clean.on[clean.predicted == label].mean(0) for label in np.unique(clean.predicted).tolist()}
    whole = clean.on.mean(0)

    def score(codes: Codes) -> np.ndarray:
        usual = np.stack([means.get(label, whole) for label in codes.predicted.tolist()])
        return np.asarray(np.abs(codes.on - usual).mean(1))

    return score


def _softmax(features: np.ndarray) -> np.ndarray:
    powers = np.exp(features.astype(np.float64) - features.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _uncertain(codes: Codes) -> np.ndarray:
    ordered = np.sort(codes.features, 1)
    return np.asarray(ordered[:, -2] - ordered[:, -1])
