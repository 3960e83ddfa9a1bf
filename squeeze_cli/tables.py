"""What the commands print: tables for people, dictionaries for `--json`."""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from squeeze.finetune import FineTune
from squeeze.gating.activity import Spending
from squeeze.latency import Latency
from squeeze.profiling import CONVENTION, Profile
from squeeze.report import pinned_by_reason, wording
from squeeze.report.data import Pinned
from squeeze.structure.cost import Cost
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Block, Branch, Choice, Group
from squeeze_cli.advice import advice
from squeeze_cli.settings import FINETUNE, settings_of, written

WIDTH = 132
"""Of what is printed into a file or a pipe, where nobody says how wide it is."""

HISTOGRAM, BAR = 12, 40
"""Bins of a printed histogram, and letters of its longest bar."""

OTHERWISE = "look where it is used, or report the network"
"""What to do about a pin if there is no other advice."""


def show(*tables: RenderableType) -> None:
    """Print to stdout, as wide as the terminal; names and patterns may hold brackets, which mean nothing to us."""
    width = None if sys.stdout.isatty() else WIDTH
    console = Console(file=sys.stdout, width=width, markup=False, emoji=False)
    for table in tables:
        console.print(table)


def structure_dict(structure: Structure) -> dict[str, Any]:
    """A structure as JSON values."""
    saved = _unit_savings(structure)
    return {
        "convention": CONVENTION,
        "dense": asdict(structure.cost()),
        "smallest": asdict(_smallest(structure)),
        "groups": [
            {
                "name": group.name,
                "units": group.size,
                "step": group.step,
                "exact": bool(group.exact),
                "maskable": bool(group.maskable),
                "note": group.note,
                "unit": asdict(cost),
                "axes": [{"tensor": a.tensor, "dim": a.dim, "reads": a.reads} for a in group.axes],
            }
            for group, cost in zip(structure.groups, saved, strict=True)
        ],
        "blocks": [_whole_dict(structure, block) for block in structure.blocks],
        "branches": [{**_whole_dict(structure, b), "concat": b.concat} for b in structure.branches],
        "inputs": [{"layer": edge.module, "inputs": edge.size} for edge in structure.inputs],
        "pinned": [{**asdict(pin), "advice": _advised(pin)} for pin in pinned_by_reason(structure.pinned)],
    }


def structure_tables(structure: Structure) -> list[RenderableType]:
    """A structure for people."""
    tables: list[RenderableType] = [_groups_table(structure)] if structure.groups else []
    whole = (("Residual blocks", structure.blocks), ("Branches of concatenations", structure.branches))
    tables += [_whole_table(structure, title, items) for title, items in whole if items]
    if structure.pinned:
        tables.append(_pins_table(structure))
    units = sum(group.size for group in structure.groups)
    dense, least = (
        f"{wording.count(cost.macs)} MACs, {wording.count(cost.params)} parameters"
        for cost in (structure.cost(), _smallest(structure))
    )
    tables.append(
        f"{_many(units, 'unit')} in {_many(len(structure.groups), 'group')}, {_many(len(structure.blocks), 'block')} "
        f"and {_many(len(structure.branches), 'branch', 'es')} can go"
        f"{'; one unit of each group stays' if structure.groups else ''}.\n"
        f"{_inputs_line(structure)}"
        f"Dense: {dense}; the smallest that cutting units can make: {least}.\n{CONVENTION}."
    )
    return tables


def _inputs_line(structure: Structure) -> str:
    """What layers need not read of tensors that keep their width; "" if there is nothing."""
    count = sum(edge.size for edge in structure.inputs)
    if not count:
        return ""
    return (
        f"{_many(count, 'input')} of {_many(len(structure.inputs), 'layer')} need not be read, while what they are "
        "read from stays (off unless a pass is told: --set structures=inputs).\n"
    )


def _many(count: int, noun: str, ending: str = "s") -> str:
    return f"{count} {noun}{'' if count == 1 else ending}"


def kernels_tables(found: Mapping[str, Any]) -> list[RenderableType]:
    """What KSE would do, layer by layer; `found` is from `KSE.overview`."""
    table = Table(title="Kernels that read each input feature map: median (middle half) over the maps of a layer")
    figures = list(dict.fromkeys(name for layer in found["layers"] for name in layer["series"]))
    for name in ("layer", "maps", *figures, "what would become of them"):
        table.add_column(name, justify="right" if name in ("maps", *figures) else "left", overflow="fold")
    for layer in found["layers"]:
        maps = str(max(map(len, layer["series"].values())))
        table.add_row(
            layer["name"], maps, *(wording.middle(layer["series"][name]) for name in figures), layer["outcome"]
        )
    costs = Table(title="By the paper's accounting")
    for name in ("", "before", "after"):
        costs.add_column(name, justify="right" if name else "left", overflow="fold")
    for claim in found["claims"]:
        costs.add_row(claim["name"], wording.count(claim["before"]), wording.count(claim["after"]))
    left_out = "\n".join(f"{name} stays as it is: {reason}." for name, reason in found["left_out"])
    return [table, costs, *([left_out] if left_out else [])]


def _groups_table(structure: Structure) -> Table:
    table = Table(
        title="Groups: units that can go one by one, but for the last", caption=_GROUPS, caption_justify="left"
    )
    for name in ("group", "units", "step", "exact", "MACs a unit", "parameters a unit", "tensors", "note"):
        table.add_column(name, justify="left" if name in ("group", "note") else "right", overflow="fold")
    for group, cost in zip(structure.groups, _unit_savings(structure), strict=True):
        figures = (wording.count(cost.macs), wording.count(cost.params), str(len(group.axes)))
        exact = "yes" if group.exact else "no"
        table.add_row(group.name, str(group.size), str(group.step), exact, *figures, _noted(group))
    return table


_GROUPS = (
    "step: channels that a unit takes, in the widest of the tensors that get smaller with it. exact: removing a unit "
    "is setting it to 0; where it is not, the network must be fine-tuned after a cut."
)


def _noted(group: Group) -> str:
    return group.note if group.size > 1 else "; ".join(filter(None, (group.note, "its only unit stays")))


def _whole_table(structure: Structure, title: str, items: Iterable[Block | Branch]) -> Table:
    table = Table(title=f"{title}: each can go as a whole")
    for name in ("name", "MACs", "parameters", "not computed without it"):
        table.add_column(name, justify="right" if name in ("MACs", "parameters") else "left", overflow="fold")
    for item in items:
        cost = _whole_savings(structure, item)
        table.add_row(item.name, wording.count(cost.macs), wording.count(cost.params), ", ".join(item.modules))
    return table


def _pins_table(structure: Structure) -> Table:
    table = Table(title="Pinned: what stays, and why")
    for name in ("reason", "indices", "where", "what to do"):
        table.add_column(name, justify="right" if name == "indices" else "left", overflow="fold")
    for pin in pinned_by_reason(structure.pinned):
        places = pin.where or pin.tensors
        shown = ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
        table.add_row(pin.reason, str(pin.count), shown, _advised(pin))
    return table


def _advised(pin: Pinned) -> str:
    return advice(pin.reason) or OTHERWISE


def _unit_savings(structure: Structure) -> list[Cost]:
    """For each group, what removing its first unit saves."""
    savings = []
    for number in range(len(structure.groups)):
        choice = structure.nothing()
        choice.units[number][0] = True
        savings.append(_saved(structure, structure.cost(choice)))
    return savings


def _smallest(structure: Structure) -> Cost:
    """The cost when every group keeps one unit."""
    choice = structure.nothing()
    for units in choice.units:
        units[1:] = True
    return structure.cost(choice)


def _whole_savings(structure: Structure, item: Block | Branch) -> Cost:
    name, none = frozenset({item.name}), frozenset[str]()
    blocks, branches = (name, none) if isinstance(item, Block) else (none, name)
    return _saved(structure, structure.cost(Choice(structure.nothing().units, blocks, branches)))


def _whole_dict(structure: Structure, item: Block | Branch) -> dict[str, Any]:
    return {"name": item.name, "modules": list(item.modules), **asdict(_whole_savings(structure, item))}


def _saved(structure: Structure, left: Cost) -> Cost:
    dense = structure.cost()
    return Cost(dense.macs - left.macs, dense.params - left.params)


def methods_dict(passes: Mapping[str, type[Any]]) -> dict[str, Any]:
    """Passes and their settings as JSON values."""
    return {
        name: {"summary": _summary(found), "settings": [asdict(setting) for setting in settings_of(found)]}
        for name, found in passes.items()
    }


def methods_tables(passes: Mapping[str, type[Any]]) -> list[RenderableType]:
    """One table a pass, and one for the fine-tuning that follows every pass."""
    tables = [_settings_table(f"{name}: {_summary(found)}", found) for name, found in passes.items()]
    title = f"fine-tuning, after every pass: {_summary(FineTune)}"
    return [*tables, _settings_table(title, FineTune, FINETUNE)]


def _settings_table(title: str, record: type[Any], prefix: str = "") -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("setting", "must be", "default", "what it does"):
        table.add_column(column, overflow="fold")
    for setting in settings_of(record):
        table.add_row(f"{prefix}{setting.name}", setting.type, setting.default, setting.doc)
    return table


def _summary(found: type[Any]) -> str:
    return re.split(r"\n\s*\n", (found.__doc__ or "").strip())[0].replace("\n", " ")


def profile_dict(
    counted: Profile, timed: Latency | None, ways: Mapping[str, str], spent: Spending | None = None
) -> dict[str, Any]:
    """A profile, with latency, ways of layers and what single inputs cost if they were measured, as JSON values."""
    told = counted.to_dict() | ({"latency": timed.to_dict(), "ways": dict(ways)} if timed else {})
    return told | ({"macs_by_input": spent.to_dict()} if spent else {})


def profile_tables(
    counted: Profile, timed: Latency | None, ways: Mapping[str, str], spent: Spending | None = None
) -> list[RenderableType]:
    """A profile for people."""
    tables: list[RenderableType] = [counted.table(), *([f"Latency: {timed}"] if timed else [])]
    if ways:
        table = Table("layer", "way", title="How layers are computed that have several ways")
        for name, way in ways.items():
            table.add_row(name or "(model)", way)
        tables.append(table)
    return [*tables, *(spending_tables(spent) if spent else [])]


def spending_tables(found: Spending) -> list[RenderableType]:
    """What single inputs cost a gated network, in two lines and a histogram."""
    low, first, middle, third, high = map(wording.count, found.quartiles)
    edges, counts = found.histogram(HISTOGRAM)
    table = Table("MACs, from", "to", "inputs", "", title="Inputs by what they cost")
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        bar = "█" * round(BAR * count / max(counts))
        table.add_row(wording.count(left), wording.count(right), str(count), bar)
    return [
        f"MACs of an input: {wording.count(found.mean)} on average, {found.mean / found.dense:.1%} of the "
        f"{wording.count(found.dense)} without gates; standard deviation {wording.count(found.deviation)}.\n"
        f"From {low} over {first}, {middle} and {third} (quartiles) to {high}, on {len(found.each)} inputs.",
        table,
    ]


def plan_line(chosen: Any, folder: Path) -> str:
    """What a run would do, for a run that does nothing."""
    values = {setting.name: getattr(chosen, setting.name) for setting in settings_of(type(chosen))}
    settings = " ".join(f"{name}={written(value)}" for name, value in values.items() if value not in (None, ()))
    return f"Would run {chosen.name} with {settings}, and write {folder}. Nothing was trained or written."
