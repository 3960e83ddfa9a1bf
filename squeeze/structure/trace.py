"""`trace`: what can be removed from a model."""

from torch import nn

from squeeze.structure.couple import cost_model, couple, edges
from squeeze.structure.groups import Structure
from squeeze.structure.run import run_on_labels
from squeeze.task import Inputs


def trace(model: nn.Module, example_inputs: Inputs) -> Structure:
    record = run_on_labels(model, example_inputs, {})
    coupling = couple(record, model, [])
    return Structure(coupling.groups, (), (), edges(record, record.nodes), coupling.pinned, cost_model(record, model))
