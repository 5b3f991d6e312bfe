"""Which plan computes a genetic convolution, from its shape alone, and why.

A plan's time is predicted as a sum of operation counts times what an operation costs (`COSTS`); only the
plan `event` depends on the density of the input, and it does so affinely. So the density under which `event`
is the cheapest is known without looking at the input: `auto` becomes a dense plan and that crossover, and the
CPU kernel, which sees the input, takes one or the other.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

Plan = Literal["auto", "materialize", "reconstruct", "gene", "event"]
Direction = Literal["forward", "grad_x", "grad_codes"]
PLANS: tuple[str, ...] = get_args(Plan)
DIRECTIONS: tuple[str, ...] = get_args(Direction)
DEVICE_PLANS = {
    "cpu": ("auto", "materialize", "reconstruct", "gene", "event"),
    "cuda": ("auto", "materialize", "reconstruct", "gene"),
}
# Images assumed where their number is not known, under torch.compile with a dynamic batch.
NOMINAL_IMAGES = 128

# Picoseconds of one operation of each kind (see `operations`), by device, direction and plan.
# cpu: `python -m gee_kernels.genetic_conv2d.calibrate`, one core of an AMD EPYC (Zen 4, AVX-512); ratios are
# what matters. cuda: not measured; every multiplication of a tensor core counts the same.
COSTS: dict[str, dict[str, dict[str, dict[str, float]]]] = {
    "cpu": {
        "forward": {
            "reconstruct": {"product": 20.4, "code": 15.7},
            "gene": {"product": 22.9, "code": 3.34},
            "event": {"event": 36.6, "code": 24.7, "value": 262.0},
        },
        "grad_x": {
            "reconstruct": {"product": 21.0, "code": 7.38},
            "gene": {"product": 22.9, "code": 0.565},
        },
        "grad_codes": {
            "reconstruct": {"product": 24.0, "code": 13.4},
            "gene": {"product": 27.4, "code": 0.0},
            "event": {"event": 25.8, "code": 32.0, "value": 491.0},
        },
    },
    "cuda": {
        direction: {"reconstruct": {"product": 1.0, "tile": 1.0}, "gene": {"product": 1.0}}
        for direction in DIRECTIONS
    },
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
        """The shape of a call; the number of images is nominal where it may change between calls."""
        if torch.compiler.is_compiling() or not isinstance(images, int):
            images = NOMINAL_IMAGES
        c_in, genes, kernel = pre.shape[:3]
        return cls(images, c_in, height, width, post.shape[0], genes, kernel, stride, padding)

    @property
    def positions(self) -> int:
        """Output pixels of all images."""
        out = [
            (size + 2 * self.padding - self.kernel) // self.stride + 1 for size in (self.height, self.width)
        ]
        return self.images * out[0] * out[1]


def operations(which: str, plan: str, shape: Shape) -> dict[str, int]:
    """How often a plan does what `COSTS` prices: all counts are per call, "event" is at a density of 1.

    product: multiplications that touch every position.  event: those of the non-zero inputs.  code: those
    among codes alone (decoding W or contracting dW), shared by all images.  value: inputs and outputs passed.
    tile: those of decoding W anew for every 256 positions, as on the GPU, where tiles share nothing.
    """
    taps, c_in, c_out, g = shape.kernel**2, shape.c_in, shape.c_out, shape.genes
    dense = shape.positions * taps * c_in * c_out
    genetic = shape.positions * taps * g * (c_in + c_out)
    c_to = c_in if which == "grad_x" else c_out
    decode, half = taps * g * c_in * c_out, taps * g * g * c_to
    value = shape.images * shape.height * shape.width * c_in + shape.positions * c_out
    code = 2 * decode if which == "grad_codes" else decode + half
    if plan == "gene":
        # The gradient of the codes needs two such products, one for each end.
        return (
            {"product": 2 * genetic, "code": 0}
            if which == "grad_codes"
            else {"product": genetic, "code": half}
        )
    if plan == "event":
        return {"event": dense, "code": code, "value": value}
    return {"product": dense, "code": code, "tile": 0 if which == "grad_codes" else dense * g // 256}


def predict(which: str, plan: str, shape: Shape, device: str, density: float = 1.0) -> float:
    """Predicted time of one call in seconds, on one thread of the machine behind `COSTS`."""
    counts, costs = operations(which, plan, shape), COSTS[device][which][plan]
    shares = {kind: density if kind == "event" else 1.0 for kind in counts}
    return sum(shares[kind] * count * costs.get(kind, 0.0) for kind, count in counts.items()) * 1e-12


DENSITY_STEPS = 200


def choose(which: str, shape: Shape, device: str) -> tuple[str, float]:
    """The cheapest dense plan, and the density of the input under which "event" is cheaper (0: never)."""
    device = device if device in COSTS else "cuda"
    dense = [plan for plan in COSTS[device][which] if plan != "event"]
    best = dense[0]
    for plan in dense[1:]:  # spelled out for torch.compile, which traces it
        if predict(which, plan, shape, device) < predict(which, best, shape, device):
            best = plan
    if "event" not in COSTS[device][which]:
        return best, 0.0
    # Bisected to half a percent: under dynamic shapes, comparisons give torch.compile constants, a quotient
    # does not.
    limit = predict(which, best, shape, device)
    low, high = 0, DENSITY_STEPS
    while low < high:
        middle = (low + high + 1) // 2
        if predict(which, "event", shape, device, middle / DENSITY_STEPS) < limit:
            low = middle
        else:
            high = middle - 1
    return best, low / DENSITY_STEPS


def resolve(plan: str, shape: Shape, device: str) -> tuple[str, float]:
    """The forward plan and the density under which "event" replaces it; -1 where the user named the plan."""
    return choose("forward", shape, device) if plan == "auto" else (plan, -1.0)


def direction(which: str, shape: Shape, device: str, plan: str, event_below: float) -> tuple[str, float]:
    """The backward plan that follows a forward pass with `plan` and `event_below` (see `resolve`).

    The gradient to x is dense whatever the input: after "event" it is computed by the cheapest dense plan.
    """
    if event_below >= 0 or (plan == "event" and which == "grad_x"):
        return choose(which, shape, device)
    return plan, -1.0


@dataclass(frozen=True)
class Choice:
    """What `auto` does in one direction."""

    direction: str
    dense_plan: str
    event_below: float  # density of the input under which "event" is taken instead; 0: never
    plan: str  # what is taken at the density asked about
    predicted_ms: dict[str, float] = field(default_factory=dict)  # every plan of the device, at that density

    def __str__(self) -> str:
        times = ", ".join(
            f"{plan} {ms:.3g} ms" for plan, ms in sorted(self.predicted_ms.items(), key=lambda i: i[1])
        )
        rule = f"event below {self.event_below:.1%} density, else {self.dense_plan}"
        rule = rule if self.event_below else f"{self.dense_plan} always"
        return f"{self.direction}: {self.plan} ({times}; {rule})"


@dataclass(frozen=True)
class Explanation:
    """What `auto` does with one convolution, direction by direction; print it."""

    shape: Shape
    device: str
    density: float
    forward: Choice
    grad_x: Choice
    grad_codes: Choice

    def __str__(self) -> str:
        s = self.shape
        head = (
            f"{s.images} images, {s.c_in}@{s.height}x{s.width} -> {s.c_out}, {s.genes} genes, "
            f"{s.kernel}x{s.kernel} stride {s.stride}, {self.density:.1%} density, {self.device}"
        )
        return "\n".join([head, *(f"  {choice}" for choice in (self.forward, self.grad_x, self.grad_codes))])


def explain_plan(
    x_shape: tuple[int, int, int, int] | torch.Size,
    pre: Tensor,
    post: Tensor,
    stride: int = 1,
    padding: int = 1,
    *,
    density: float = 1.0,
    device: str | torch.device | None = None,
) -> Explanation:
    """What `genetic_conv2d(..., plan="auto")` picks, with the predicted time of every plan, by direction.

    Args:
        x_shape: `[N, C_in, H, W]`.
        pre: encoding of the input population, `[C_in, g, K, K]`; only its shape matters.
        post: encoding of the output population, `[C_out, g, K, K]`; only its shape matters.
        stride: step of the window.
        padding: zeros added on every side.
        density: share of x that is not zero, in [0, 1].
        device: where the convolution runs; pre's device by default.

    Returns:
        An `Explanation`; `str()` of it is a table. Times are milliseconds on one thread of the machine that
        the constants were measured on: their ratios are what counts.

    Raises:
        ValueError: density is not in [0, 1], or x_shape does not fit pre.
    """
    if not 0 <= density <= 1:
        raise ValueError(f"density must be in [0, 1], got {density}")
    if len(x_shape) != 4 or x_shape[1] != pre.shape[0]:
        raise ValueError(f"x_shape must be [N, {pre.shape[0]}, H, W], got {list(x_shape)}")
    name = torch.device(device).type if device is not None else pre.device.type
    costs = COSTS[name if name in COSTS else "cuda"]
    shape = Shape.of(x_shape[0], x_shape[2], x_shape[3], pre, post, stride, padding)
    choices = {}
    for which in DIRECTIONS:
        dense_plan, event_below = choose(which, shape, name)
        predicted = {
            plan: predict(which, plan, shape, name if name in COSTS else "cuda", density) * 1e3
            for plan in costs[which]
        }
        taken = "event" if density < event_below else dense_plan
        choices[which] = Choice(which, dense_plan, event_below, taken, predicted)
    return Explanation(shape, name, density, **choices)
