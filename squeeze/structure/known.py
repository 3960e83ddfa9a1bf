"""What the rounds of a trace have taught: readings, pins, and groups that only shrink together."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from squeeze.structure.couple import Coupling
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Axis, Group, Size
from squeeze.structure.run import Record
from squeeze.structure.sizes import Search
from squeeze.structure.trial import Trial

Pinned = tuple[np.ndarray, str, str]
"""Nodes that stay, why, and the line that is the cause."""


@dataclass(frozen=True, eq=False)
class _Failed:
    """A group that could not be cut alone, its nodes, and its pin unless it could be read in another way."""

    group: Group
    nodes: np.ndarray
    pin: Pinned | None


@dataclass(frozen=True, eq=False)
class _Join:
    """Equally many nodes that go together, one by one, and what was known before they did."""

    outer: np.ndarray
    inner: np.ndarray
    pins: list[Pinned]
    readings: dict[int, int]


@dataclass(frozen=True, eq=False)
class _Sized:
    """Numbers in the user's modules that say how many of these nodes there are; none if that turned out to be wrong.

    Attributes:
        nodes: Of a group.
        units: How many it has.
        sizes: The numbers.
        tried: With this group, not only with one like it.
    """

    nodes: np.ndarray
    units: int
    sizes: tuple[Size, ...]
    tried: bool


@dataclass
class Known:
    """What the rounds so far have taught.

    Attributes:
        readings: For ops that can be read in several ways, which one to take.
        pins: Nodes that a trial showed to be fixed, why, and where.
        scaled: Nodes whose number is used as a number in the code.
        sizes: Numbers in the user's modules that shrink with a group, and what does not.
        joins: Dimensions, or parts, of equal size whose indices go together: the code computes one size from the other.
    """

    readings: dict[int, int] = field(default_factory=dict)
    pins: list[Pinned] = field(default_factory=list)
    scaled: list[np.ndarray] = field(default_factory=list)
    sizes: list[_Sized] = field(default_factory=list)
    joins: list[_Join] = field(default_factory=list)
    _failed: list[_Failed] = field(default_factory=list)
    _tried: set[tuple[bytes, bytes]] = field(default_factory=set)
    _hopeless: set[int] = field(default_factory=set)

    def apply(self, record: Record) -> None:
        """Write what the run itself cannot see into its ledger."""
        ledger = record.context.ledger
        ledger.statistics += [(nodes, "its size is used as a number in the code") for nodes in self.scaled]
        ledger.ties += [(join.outer, join.inner) for join in self.joins]

    def sized(self, coupling: Coupling) -> Coupling:
        """The groups with the numbers in the user's modules that shrink with them."""
        sized, groups = [one for one in self.sizes if one.sizes], list[Group]()
        for number, group in enumerate(coupling.groups if sized else ()):
            nodes = _nodes(coupling, number)
            sizes = next((one.sizes for one in sized if np.isin(nodes, one.nodes).all()), ())
            groups.append(replace(group, sizes=sizes))
        return replace(coupling, groups=tuple(groups)) if sized else coupling

    def unstick(self, record: Record, nodes: np.ndarray) -> bool:
        """Take the next reading wherever these nodes are stuck; the first again if, before any trial, none helped."""
        marked, before = _marked(record, nodes), dict(self.readings)
        for site in record.context.sites:
            reading = self.readings.get(site.key, 0)
            if site.key in self._hopeless or not marked[site.ids].any():
                continue
            if reading + 1 < site.options:
                self.readings[site.key] = reading + 1
            elif not self._failed and marked[site.ids].all():
                self.readings[site.key] = 0
                self._hopeless.add(site.key)
        return self.readings != before

    def reread(self, record: Record, nodes: np.ndarray) -> bool:
        """Take the next reading wherever one is left and these nodes are concerned."""
        changed, marked = False, _marked(record, nodes)
        for site in record.context.sites:
            if self.readings.get(site.key, 0) + 1 < site.options and marked[site.ids].any():
                self.readings[site.key] = self.readings.get(site.key, 0) + 1
                changed = True
        return changed

    def _read_anew(self, record: Record, nodes: np.ndarray, before: Mapping[int, int]) -> bool:
        """These nodes are concerned by an op that is read in another way than before."""
        marked, now = _marked(record, nodes), self.readings
        return any(
            now.get(site.key, 0) != before.get(site.key, 0) and marked[site.ids].any() for site in record.context.sites
        )

    def learn(self, trial: Trial, record: Record, coupling: Coupling, structure: Structure) -> bool:
        """Take over what a trial of the groups found; False if it found nothing."""
        failures, search = trial.groups(), Search(trial.dense.quick, structure, coupling, record.context.pieces)
        before = dict(self.readings)
        for failure in failures:
            nodes = _nodes(coupling, failure.item)
            joined = any(np.isin(join.outer, nodes).any() for join in self.joins)
            # Another group of this round may have changed the reading already: that is tried before anything is pinned.
            if not joined and (self._read_anew(record, nodes, before) or self.reread(record, nodes)):
                pin = None
            elif self._resized(search, failure.item, nodes) or self._part(nodes):
                continue
            else:
                pin = (nodes, failure.reason, failure.where)
            self.pins += [pin] if pin else []
            self._failed.append(_Failed(structure.groups[failure.item], nodes, pin))
        self._join(record)
        self.scaled += [_nodes(coupling, number) for number in trial.scaled]
        return bool(failures) or bool(trial.scaled)

    def _resized(self, search: Search, number: int, nodes: np.ndarray) -> bool:
        """Let numbers in the modules shrink with a group that fails; what fails in spite of that is given up."""
        before = [sized for sized in self.sizes if np.isin(nodes, sized.nodes).any()]
        self.sizes = [sized for sized in self.sizes if sized not in before]
        taken = Counter[tuple[str, str]]()
        for sized in self.sizes:
            taken.update({(size.module, size.attribute): size.step * sized.units for size in sized.sizes})
        units = search.structure.groups[number].size

        def free(sizes: Sequence[Size]) -> bool:
            return all(taken[size.module, size.attribute] + size.step * units <= size.value for size in sizes)

        failed = [sized for sized in before if np.isin(nodes, sized.nodes).all()]
        like = None if failed else search.like(number)
        if like is not None and free(like):
            self.sizes.append(_Sized(nodes, units, like, tried=False))
            return bool(like)
        sizes = () if any(sized.tried for sized in failed) else search.needed(number)
        self.sizes.append(_Sized(nodes, units, sizes if free(sizes) else (), tried=True))
        return bool(self.sizes[-1].sizes)

    def _part(self, nodes: np.ndarray) -> bool:
        """Give up the joins that these nodes are part of; False if there are none."""
        touched = [join for join in self.joins if np.isin(join.outer, nodes).any()]
        for join in reversed(touched):
            self.joins.remove(join)
            self.pins += join.pins
            self.readings.update(join.readings)
        return bool(touched)

    def _join(self, record: Record) -> None:
        """Try what failed alone in company: what a layer reads with what it sends, if another layer reads as much."""
        for outer in self._failed:
            for inner in self._failed if outer.pin is not None else ():
                for axes in _equal(outer.group, inner.group) if outer is not inner else ():
                    given, read = (_inside(record, axis) for axis in axes)
                    if (key := (given.tobytes(), read.tobytes())) not in self._tried:
                        self._tried.add(key)
                        self.joins.append(_Join(given, read, *self._forgotten(record, outer, inner)))
                        break

    def _forgotten(self, record: Record, *failed: _Failed) -> tuple[list[Pinned], dict[int, int]]:
        """Take back pins and readings; returns what they were."""
        marked = _marked(record, *(one.nodes for one in failed))
        pins = [pin for pin in self.pins if marked[pin[0]].any()]  # in whatever reading they failed
        self.pins = [pin for pin in self.pins if not marked[pin[0]].any()]
        sites = [site.key for site in record.context.sites if marked[site.ids].any()]
        readings = {key: self.readings.get(key, 0) for key in sites}
        self.readings.update(dict.fromkeys(sites, 0))
        return pins, readings


def _equal(outer: Group, inner: Group) -> Iterator[tuple[Axis, Axis]]:
    """Dimensions that a layer between two groups reads, and that a reader of the inner one reads: as much of each."""
    sent, seen = {axis.tensor for axis in inner.axes if not axis.reads}, set[tuple[bytes, bytes]]()
    for given in outer.axes:
        if given.reads and given.tensor in sent:
            for read in inner.axes:
                ties = given.units.tobytes(), read.units.tobytes()  # where they are equal, so are the joins
                if read.reads and (read.units >= 0).sum() == (given.units >= 0).sum() and ties not in seen:
                    seen.add(ties)
                    yield given, read


def _inside(record: Record, axis: Axis) -> np.ndarray:
    """The nodes of a group in a dimension."""
    return record.nodes.spans[axis.tensor, axis.dim][0] + np.flatnonzero(axis.units >= 0)


def _marked(record: Record, *nodes: np.ndarray) -> np.ndarray:
    """(nodes + 1,) True for these; the last is that of no node."""
    mark = np.zeros(record.nodes.total + 1, dtype=bool)
    mark[np.concatenate(nodes)] = True
    return mark


def _nodes(coupling: Coupling, group: int) -> np.ndarray:
    member = np.zeros(coupling.unit.max(initial=-1) + 1, dtype=bool)
    member[coupling.members[group]] = True
    return np.flatnonzero(member[coupling.unit])
