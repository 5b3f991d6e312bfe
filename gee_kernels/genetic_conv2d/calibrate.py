"""Measure what an operation of each plan costs on this CPU: `python -m gee_kernels.genetic_conv2d.calibrate`.

Prints the `COSTS["cpu"]` of plan.py. Every plan is timed on a few shapes and densities, on one thread, by
that thread's own clock, so that a busy machine disturbs little; the costs are those of least squared relative
error.
"""

import argparse
import itertools
import pprint
import time

import torch

from gee_kernels.genetic_conv2d import plan as planning

# images, channels, size, genes: about the same work in each
SHAPES = [
    (8, 64, 32, 50),
    (4, 128, 32, 100),
    (8, 128, 16, 25),
    (8, 256, 16, 100),
    (8, 512, 8, 100),
    (16, 256, 8, 50),
]
DENSITIES = (0.02, 0.1, 0.4)


def timed(function, repeats: int) -> float:
    """The shortest of `repeats` runs, in seconds of this thread: disturbances only ever lengthen a run."""
    function()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        function()
        times.append(time.thread_time() - start)
    return min(times)


def calls(shape: planning.Shape, density: float):
    """(direction, plan, function) of every plan on random operands of `shape`."""
    ops = torch.ops.gee_kernels
    generator = torch.Generator().manual_seed(0)
    size, channels, genes = shape.height, shape.c_in, shape.genes
    x = (torch.rand(shape.images, channels, size, size, generator=generator) < density).float()
    x = x.contiguous(memory_format=torch.channels_last)
    grad = torch.randn(x.shape, generator=generator).contiguous(memory_format=torch.channels_last)
    codes = [
        torch.randn(s, generator=generator)
        for s in ((channels, genes, 3, 3), (genes, genes), (channels, genes, 3, 3))
    ]
    bits = ops.pack_spikes(x)
    for plan in planning.COSTS["cpu"]["forward"]:
        yield "forward", plan, lambda p=plan: ops.genetic_conv2d(x, *codes, bits, 1, 1, p, -1.0)
    for plan in planning.COSTS["cpu"]["grad_x"]:
        yield "grad_x", plan, lambda p=plan: ops.genetic_conv2d_grad_x(grad, *codes, size, size, 1, 1, p)
    for plan in planning.COSTS["cpu"]["grad_codes"]:
        yield (
            "grad_codes",
            plan,
            lambda p=plan: ops.genetic_conv2d_grad_codes(grad, None, bits, *codes, 1, 1, True, True, p, -1.0),
        )


def fit(rows: list[list[float]], times: list[float]) -> list[float]:
    """Non-negative x of least squared relative error of rows @ x against times, by coordinate descent."""
    a = torch.tensor(rows, dtype=torch.float64) / torch.tensor(times, dtype=torch.float64)[:, None]
    scale = a.norm(dim=0).clamp_min(1e-300)
    a, x = a / scale, torch.zeros(a.shape[1], dtype=torch.float64)
    for _ in range(2000):
        for j in range(a.shape[1]):
            x[j] = (x[j] + (1 - a @ x) @ a[:, j]).clamp_min(0)
    return (x / scale).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="runs of each call (default 5)")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    measured: dict[tuple[str, str], list[tuple[dict[str, float], float]]] = {}
    for (images, channels, size, genes), density in itertools.product(SHAPES, DENSITIES):
        shape = planning.Shape(images, channels, size, size, channels, genes, 3, 1, 1)
        for which, plan, function in calls(shape, density):
            if plan != "event" and density != DENSITIES[-1]:
                continue  # a dense plan's time does not depend on it
            counts = {
                kind: count * (density if kind == "event" else 1.0)
                for kind, count in planning.operations(which, plan, shape).items()
            }
            measured.setdefault((which, plan), []).append((counts, timed(function, repeats)))
    costs: dict[str, dict[str, dict[str, float]]] = {}
    for (which, plan), samples in measured.items():
        kinds = list(planning.COSTS["cpu"][which][plan])
        values = fit([[counts[kind] for kind in kinds] for counts, _ in samples], [t for _, t in samples])
        costs.setdefault(which, {})[plan] = {
            k: float(f"{v * 1e12:.3g}") for k, v in zip(kinds, values, strict=True)
        }
        errors = [sum(c[k] * v for k, v in zip(kinds, values, strict=True)) / t - 1 for c, t in samples]
        print(f"# {which:10} {plan:12} relative errors", " ".join(f"{e:+.0%}" for e in errors))
    pprint.pprint(costs, sort_dicts=False, width=100)


if __name__ == "__main__":
    main()
