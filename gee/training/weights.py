"""Weights in safetensors with the model's configuration inside: one file is a whole network.

Nothing is ever unpickled: a file that is no safetensors file is refused.
"""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from gee.config import from_dict, to_dict
from gee.files import write_atomically
from gee.models import SpikingNetwork
from gee.training.config import ModelConfig

FORMAT = "gee weights 1"


class WeightsError(ValueError):
    """A file of weights or a checkpoint that cannot be used."""


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and JSON metadata into one safetensors file, whole or not at all."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(contiguous, {"gee": json.dumps(metadata)}))


def read_tensors(path: str | Path, format: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote, the tensors on the CPU.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is damaged, no safetensors file (a pickle, say), or of another format than `format`.
    """
    path = Path(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get("gee", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is damaged or no safetensors file ({error})") from None
    found = metadata.get("format", "no format of gee")
    if found != format:
        raise WeightsError(f"{path} must be of format {format!r}, got {found!r}")
    return tensors, metadata


def save_weights(
    path: str | Path, model: SpikingNetwork, config: ModelConfig, metadata: dict[str, Any] | None = None
) -> None:
    """Write the network's weights and what is needed to build it again.

    Args:
        path: usually `*.safetensors`.
        model: the network that `config.create` built.
        config: its configuration.
        metadata: anything else worth keeping that JSON can hold, e.g. the accuracy.
    """
    about = {
        "format": FORMAT,
        "model": to_dict(config),
        "num_classes": model.num_classes,
        "in_channels": model.in_channels,
        **(metadata or {}),
    }
    write_tensors(path, model.state_dict(), about)


def load_model(path: str | Path, **overrides: Any) -> tuple[SpikingNetwork, dict[str, Any]]:
    """Build the network of a file of weights, on the CPU, and return it with the file's metadata.

    Args:
        path: a file that `save_weights` wrote.
        overrides: fields of `ModelConfig` that do not change the weights, e.g. `backend="reference"`.

    Raises:
        OSError: the file cannot be read.
        WeightsError: the file is damaged, or the weights do not fit the network that they name.
    """
    tensors, metadata = read_tensors(path, FORMAT)
    try:
        config = from_dict(ModelConfig, {**metadata["model"], **overrides})
        with torch.random.fork_rng(
            devices=[]
        ):  # the initial weights are replaced; leave no trace of drawing them
            model = config.create(num_classes=metadata["num_classes"], in_channels=metadata["in_channels"])
        model.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} does not fit this version's networks: {error}") from error
    return model, metadata
