"""Every activation of torch.nn passes labels on, in place and not."""

import pytest
import torch
from torch import Tensor, nn

import squeeze

ACTIVATIONS: dict[str, nn.Module] = {
    type(module).__name__ + (" in place" if getattr(module, "inplace", False) else ""): module
    for module in (
        *(nn.CELU(), nn.ELU(), nn.GELU(), nn.Hardshrink(), nn.Hardsigmoid(), nn.Hardswish(), nn.Hardtanh()),
        *(nn.LeakyReLU(), nn.LogSigmoid(), nn.Mish(), nn.PReLU(), nn.ReLU(), nn.ReLU6(), nn.RReLU(), nn.SELU()),
        *(nn.SiLU(), nn.Sigmoid(), nn.Softplus(), nn.Softshrink(), nn.Softsign(), nn.Tanh(), nn.Tanhshrink()),
        *(nn.CELU(inplace=True), nn.ELU(inplace=True), nn.Hardsigmoid(inplace=True), nn.Hardswish(inplace=True)),
        *(nn.Hardtanh(inplace=True), nn.LeakyReLU(inplace=True), nn.Mish(inplace=True), nn.ReLU(inplace=True)),
        *(nn.ReLU6(inplace=True), nn.RReLU(inplace=True), nn.SELU(inplace=True), nn.SiLU(inplace=True)),
        *(nn.Threshold(0.1, 0.0), nn.Threshold(0.1, 0.0, inplace=True)),
    )
}


def widths(activation: nn.Module) -> list[int]:
    """Of the groups of a network with this activation inside."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), activation, nn.Conv2d(8, 4, 1)).eval()
    return [group.size for group in squeeze.trace(model, torch.randn(2, 3, 6, 6)).groups]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_channels_in_front_of_an_activation_can_go(name: str) -> None:
    assert widths(ACTIVATIONS[name]) == [8]


class SafeSoftmax(nn.Module):
    """Over positions: what attention decomposes into."""

    def forward(self, x: Tensor) -> Tensor:
        weighed: Tensor = torch.ops.aten._safe_softmax(x.flatten(2), -1)
        return weighed.view_as(x)


def test_softmax_over_positions_by_its_other_name() -> None:
    assert widths(SafeSoftmax()) == [8]
