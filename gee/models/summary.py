"""A network layer by layer: what is learned, what it decodes to, and what the dense twin would learn."""

from dataclasses import dataclass

import torch
from torch import nn

from gee.layers import DenseConv2d, DenseLinear, SpikingConv2d, SpikingLayer
from gee.models.network import SpikingNetwork
from gee.models.registry import create_model


@dataclass(frozen=True)
class LayerSummary:
    """One layer: a population with the synapses into it, a shortcut, a fully connected layer, or G itself."""

    name: str
    encoding: tuple[int, ...] | None  # [C, g, K, K] of the population, [g, g] of the interaction
    weights: int  # synaptic weights that the layer uses, decoded or learned
    parameters: int  # learned numbers
    dense_parameters: int  # learned numbers of the same layer in the dense twin


def summarise(name: str, *, genes: int | None, **options) -> list[LayerSummary]:
    """Every layer of a model, and of its dense twin; nothing is allocated.

    Args:
        name: one of `gee.models.list_models()`.
        genes: g; None compares the dense twin with itself.
        options: those of `create_model`.

    Returns:
        the layers in the order of the network, the shared interaction G first.
    """
    with torch.device("meta"):
        model = create_model(name, genes=genes, **options)
        twin = create_model(name, genes=None, **options)
    rows = []
    if model.interaction is not None:
        shape = tuple(model.interaction.shape)
        rows.append(LayerSummary("interaction", shape, 0, model.interaction.numel(), 0))
    dense = dict(synaptic_layers(twin))
    for layer_name, layer in synaptic_layers(model):
        encoding = layer.encoding if isinstance(layer, SpikingConv2d) else None
        rows.append(
            LayerSummary(
                layer_name,
                None if encoding is None else tuple(encoding.shape),
                sum(p.numel() for p in dense[layer_name].parameters() if p.dim() > 1),
                sum(p.numel() for p in layer.parameters()),
                sum(p.numel() for p in dense[layer_name].parameters()),
            )
        )
    return rows


def synaptic_layers(model: SpikingNetwork) -> list[tuple[str, nn.Module]]:
    """Every layer that has synapses, by name, each parameter but G in exactly one of them."""
    found: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in found)
        if isinstance(module, SpikingLayer | DenseConv2d | DenseLinear) and not inside:
            found.append((name, module))
    return found


def table(rows: list[LayerSummary]) -> str:
    """The summary as text; compression is the dense twin's parameters over the model's."""
    head = ("layer", "encoding X_p", "weights W", "parameters", "dense twin", "compression")
    lines = [_line(*head)]
    for row in rows:
        shape = "" if row.encoding is None else " x ".join(map(str, row.encoding))
        ratio = f"{row.dense_parameters / row.parameters:.2f}" if row.dense_parameters else ""
        lines.append(
            _line(
                row.name,
                shape,
                f"{row.weights:,}" if row.weights else "",
                f"{row.parameters:,}",
                f"{row.dense_parameters:,}",
                ratio,
            )
        )
    weights, parameters, dense = (
        sum(getattr(row, field) for row in rows) for field in ("weights", "parameters", "dense_parameters")
    )
    total = _line("total", "", f"{weights:,}", f"{parameters:,}", f"{dense:,}", f"{dense / parameters:.2f}")
    return "\n".join([*lines, total])


def _line(name: str, shape: str, weights: str, parameters: str, dense: str, ratio: str) -> str:
    return f"{name:<18}{shape:>20}{weights:>14}{parameters:>13}{dense:>13}{ratio:>13}"
