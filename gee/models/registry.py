"""Models by name."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gee.models.network import SpikingNetwork

_MODELS: dict[str, Callable[..., "SpikingNetwork"]] = {}


def register(build: Callable[..., "SpikingNetwork"]) -> Callable[..., "SpikingNetwork"]:
    """Make a model known under its function's name; the docstring's first line describes it."""
    _MODELS[build.__name__] = build
    return build


def list_models() -> list[str]:
    """The names that `create_model` knows, sorted."""
    return sorted(_MODELS)


def describe_model(name: str) -> str:
    """One line about a model.

    Raises:
        ValueError: an unknown name.
    """
    return (_find(name).__doc__ or "").strip().splitlines()[0]


def create_model(
    name: str,
    *,
    genes: int | None,
    num_classes: int = 10,
    in_channels: int = 3,
    time_steps: int = 4,
    **kw: Any,
) -> "SpikingNetwork":
    """Build a spiking network, initialised with torch's global generator.

    Args:
        name: one of `list_models()`.
        genes: g, the number of genes; None: the dense twin, the same graph with learned weights.
        num_classes: size of the output.
        in_channels: channels of the image or of the events.
        time_steps: T.
        kw: `width` (multiplies all channels), `backend` (`"fused"` or `"reference"`), `plan` (of
            `gee_kernels.genetic_conv2d`), the neuron's options (`tau`, `v_threshold`, `v_reset`,
            `decay_input`, `detach_reset`, `surrogate`, `alpha`), and what the model itself takes.

    Raises:
        ValueError: an unknown name, or a value out of range.
        TypeError: an unknown option.
    """
    build = _find(name)
    return build(genes=genes, num_classes=num_classes, in_channels=in_channels, time_steps=time_steps, **kw)


def _find(name: str) -> Callable[..., "SpikingNetwork"]:
    if name not in _MODELS:
        raise ValueError(f"name must be one of {', '.join(list_models())}, got {name!r}")
    return _MODELS[name]
