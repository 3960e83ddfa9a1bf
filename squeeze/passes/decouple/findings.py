"""What a search tells the report: how often each filter is on and for which classes, and what single inputs cost."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from squeeze.gating.activity import INPUTS, activities, spending
from squeeze.gating.classes import attribute_of
from squeeze.gating.codes import Codes, gather
from squeeze.gating.costs import Gated
from squeeze.gating.information import filter_information
from squeeze.gating.inputs import samples_from
from squeeze.gating.overview import overview
from squeeze.task import Task


def finding(gated: Gated, task: Task) -> dict[str, Any]:
    """The fields of a `squeeze.report.findings.Finding`, as JSON values.

    Args:
        gated: The network with its gates as they will stay.
        task: Its data: what is held out is looked at, or training data where nothing is.
    """
    source, batches = samples_from(task, ("holdout", "train"), INPUTS)
    codes = gather(gated.model, task, batches)
    classes, labelled = attribute_of(codes)
    of = "held-out inputs" if source == "holdout" else "training inputs"
    return {
        "text": (
            f"At the end, on {len(codes)} {of}: for each filter the share of them that switch it on, "
            "and what that tells of "
            f"{'their class' if labelled else 'the class that the network sees, as there are no labels'}, in bits, "
            "less what would be found by chance."
        ),
        "claims": claims(gated, codes),
        "layers": [
            {
                "name": activity.name,
                "series": {
                    "on": _rounded(activity.rates),
                    "information": _rounded(filter_information(codes.on[:, codes.layer(activity.name)], classes)),
                },
                "outcome": activity.summary(),
            }
            for activity in activities(codes)
        ],
        "distributions": [_distribution(gated, codes)],
        "paths": asdict(overview(codes)),
    }


def claims(gated: Gated, codes: Codes) -> list[dict[str, Any]]:
    """What an input costs, and filters, without gates and with them."""
    spent = spending(codes, gated.costs.dense)
    on = [torch.from_numpy(codes.on[:, codes.layer(name)]).double() for name in codes.layers]
    alone = gated.costs.dense * float(gated.costs.shares(on, reading=False).mean())
    rows = (
        ("MACs of an input, on average", spent.dense, spent.mean),
        ("MACs of the costliest input", spent.dense, spent.quartiles[4]),
        ("MACs of an input, if readers did not skip what is off before them", spent.dense, alone),
        ("Filters that are on, on average", codes.on.shape[1], float(codes.on.sum(1).mean())),
    )
    return [{"name": name, "before": float(before), "after": float(after)} for name, before, after in rows]


def _distribution(gated: Gated, codes: Codes) -> dict[str, Any]:
    spent = spending(codes, gated.costs.dense)
    edges, counts = spent.histogram()
    return {"title": "Inputs by their MACs", "edges": list(edges), "counts": list(counts), "mean": spent.mean}


def _rounded(values: np.ndarray) -> list[float]:
    """Four digits are enough to look at."""
    return [float(f"{value:.4g}") for value in values.tolist()]
