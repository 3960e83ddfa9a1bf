"""What `squeeze paths` and `squeeze detect` print."""

from rich.console import RenderableType
from rich.table import Table

from squeeze.gating.activity import Spending
from squeeze.paths import Paths
from squeeze.paths.silencing import Silencing
from squeeze.report import wording


def paths_tables(found: Paths) -> list[RenderableType]:
    """Paths for people."""
    tables: list[RenderableType] = [_layers_table(found), spending_line(found.spending)]
    if found.tied:
        tables.append(_tied_table(found))
    if found.silencing is not None:
        tables.append(_silencing_table(found.silencing))
    if found.path is not None:
        tables.append(_path_table(found))
    return tables


def spending_line(found: Spending) -> str:
    """What inputs cost, in two lines."""
    low, first, middle, third, high = map(wording.count, found.quartiles)
    return (
        f"MACs of an input: {wording.count(found.mean)} on average, {found.mean / found.dense:.1%} of the "
        f"{wording.count(found.dense)} without gates; standard deviation {wording.count(found.deviation)}.\n"
        f"From {low} over {first}, {middle} and {third} (quartiles) to {high}, on {len(found.each)} inputs."
    )


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
