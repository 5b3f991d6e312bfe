"""Which plan computes a genetic convolution, from its shape alone, and why."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

Plan = Literal["auto", "materialize", "reconstruct", "gene", "event"]
Direction = Literal["forward", "grad_x", "grad_codes"]
PLANS: tuple[str, ...] = get_args(Plan)
DIRECTIONS: tuple[str, ...] = get_args(Direction)
DEVICE_PLANS = {
    "cpu": ("auto", "materialize", "reconstruct", "gene", "event"),
    "cuda": ("auto", "materialize", "reconstruct", "gene"),
}


def check_plan(plan: str, device: str) -> None:
    """Raise ValueError naming the plans that `device` ("cpu", "cuda") has, unless `plan` is one of them."""
    plans = DEVICE_PLANS.get(device, DEVICE_PLANS["cuda"])
    if plan not in plans:
        raise ValueError(f"plan must be one of {', '.join(plans)} on {device}, got {plan!r}")


@dataclass(frozen=True)
class Shape:
    """One convolution: images, channels, genes and geometry."""

    images: int
    c_in: int
    height: int
    width: int
    c_out: int
    genes: int
    kernel: int
    stride: int
    padding: int

    @classmethod
    def of(cls, images: int, height: int, width: int, pre: Tensor, post: Tensor, stride: int, padding: int):
        return cls(
            images, pre.shape[0], height, width, post.shape[0], pre.shape[1], pre.shape[2], stride, padding
        )


def resolve(plan: str, shape: Shape, device: str) -> tuple[str, float]:
    """The forward plan and the density under which "event" replaces it; -1 where the user named the plan."""
    if plan != "auto":
        return plan, -1.0
    return choose("forward", shape, device)


def direction(
    which: Direction, shape: Shape, device: str, plan: str, event_below: float
) -> tuple[str, float]:
    """The backward plan that follows a forward pass with `plan` and `event_below` (see `resolve`)."""
    if event_below >= 0 or (plan == "event" and which == "grad_x"):
        return choose(which, shape, device)
    return plan, -1.0


def choose(which: Direction, shape: Shape, device: str) -> tuple[str, float]:
    return "reconstruct", 0.0
