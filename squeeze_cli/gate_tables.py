"""What `squeeze paths` and `squeeze detect` print."""

from rich.console import RenderableType
from rich.table import Table

from squeeze.detection import Detection, Verdict
from squeeze.paths import Paths
from squeeze.paths.silencing import Silencing
from squeeze.report import wording
from squeeze_cli.tables import spending_tables


def paths_tables(found: Paths) -> list[RenderableType]:
    """Paths for people."""
    tables: list[RenderableType] = [_layers_table(found), *spending_tables(found.spending)]
    if found.tied:
        tables.append(_tied_table(found))
    if found.silencing is not None:
        tables.append(_silencing_table(found.silencing))
    if found.path is not None:
        tables.append(_path_table(found))
    return tables


def _layers_table(found: Paths) -> Table:
    title = f"Gates on {len(found.codes)} inputs ({found.source}); the class holds {found.entropy:.2f} bits"
    table = Table(title=title)
    table.add_column("layer", overflow="fold")
    for name in ("filters", "always on", "for some", "never", "dependence", "code tells, at least", "single filter"):
        table.add_column(name, justify="right")
    for item in found.layers:
        activity = item.activity
        counts = (len(activity.rates), activity.always, activity.varying, activity.never)
        bound = wording.NONE if item.bound is None else f"{item.bound:.2f} bits"
        row = (*map(str, counts), f"{activity.dependence:.3f}", bound, f"{item.single:.3f} bits")
        table.add_row(activity.name, *row)
    return table


def _tied_table(found: Paths) -> Table:
    table = Table(title="Filters most tied to each class, and the inputs for which their gates are surest")
    table.add_column("class", justify="right")
    table.add_column("filter", overflow="fold")
    for name in ("tied", "on for the class"):
        table.add_column(name, justify="right")
    table.add_column("inputs")
    for label, filters in found.tied.items():
        for item in filters:
            inputs = " ".join(map(str, item.inputs))
            table.add_row(str(label), f"{item.layer} {item.filter}", f"{item.tie:.0%}", f"{item.rate:.0%}", inputs)
    return table


def _silencing_table(found: Silencing) -> Table:
    most = max(found.filters)
    table = Table(title=f"Without the {most} filters most tied to a class: what it and the others lose, on average")
    for name in ("", "the class", "other classes", "the class, at random", "lose most themselves"):
        table.add_column(name, justify="right" if name else "left")
    for name, effect, scale in (("accuracy, points", found.accuracy, 100.0), ("lead of its feature", found.lead, 1.0)):
        figures = (effect.own, effect.others, float(effect.random.mean()))
        row = [f"{scale * figure:.2f}" for figure in figures]
        table.add_row(name, *row, f"{effect.hit} of {len(found.classes)} classes")
    return table


def _path_table(found: Paths) -> Table:
    path = found.path
    if path is None:
        raise TypeError("no input was asked for")
    nearest = min(path.distance, key=lambda label: path.distance[label])
    title = (
        f"Input {path.sample}: class {path.label}, seen as {path.predicted}; "
        f"its code is nearest to those of class {nearest}"
    )
    table = Table(title=title)
    for name in ("layer", "on", "distance", "on, though off for most of its class", "off, though on for most"):
        table.add_column(name, justify="right" if name in ("on", "distance") else "left", overflow="fold")
    for step in path.steps:
        lists = (" ".join(map(str, step.extra)), " ".join(map(str, step.missing)))
        table.add_row(step.layer, str(len(step.on)), f"{step.distance:.3f}", *lists)
    return table


def detection_tables(found: Detection) -> list[RenderableType]:
    """Attacks and detectors for people."""
    judged = [verdict for verdict in found.verdicts if verdict.auc]
    attacks = Table(title=f"Attacks on {found.judged} inputs that the network sees rightly ({found.sources[1]})")
    for name in ("", *(verdict.attack for verdict in found.verdicts)):
        attacks.add_column(name, justify="right" if name else "left")
    attacks.add_row("succeed", *(f"{verdict.success:.1%}" for verdict in found.verdicts))
    attacks.add_row("flagged by the detector that is kept", *(_share(v.flagged) for v in found.verdicts))
    tables: list[RenderableType] = [attacks]
    if judged:
        on = f"fitted on {found.fit} clean inputs ({found.sources[0]}) and attacked ones"
        scores = Table(title=f"Area under the ROC curve (0.5 is chance),\n{on}")
        scores.add_column("told by", overflow="fold")
        for verdict in judged:
            scores.add_column(verdict.attack, justify="right")
        for name in judged[0].auc:
            scores.add_row(name, *(f"{verdict.auc[name]:.3f}" for verdict in judged))
        tables += [scores, _depth_table(judged)]
    if found.alarms is not None:
        tables.append(f"The detector that is kept flags {found.alarms:.1%} of the clean inputs.")
    return tables


def _depth_table(judged: list[Verdict]) -> Table:
    table = Table(title="The same, by the codes of the first layers alone")
    table.add_column("attack")
    for name in ("layers", *judged[0].depth):
        table.add_column(name, justify="right")
    for verdict in judged:
        for place, (count, areas) in enumerate(verdict.by_depth()):
            table.add_row("" if place else verdict.attack, str(count), *(f"{area:.3f}" for area in areas))
        table.add_section()
    return table


def _share(value: float | None) -> str:
    return wording.NONE if value is None else f"{value:.1%}"
