"""How cost grows with density, time steps, batch, genes, channels, threads, against the machine's ceilings.

`pytest --benchmark bench/bench_growth.py` writes bench/results/growth.json and growth.png.

One parameter varies at a time, the others stay at `Point`'s defaults. `genetic_conv2d` (plan auto) alternates
with dense channels-last torch convolution, forward or forward + backward (gradients to x and to the dense
weight); `lif` and `batch_norm_lif` with a copy that moves as many bytes. Density and genes do not enter these
two.

The floor of a point comes from ceilings that are measured first, in the same process, for each thread count:
multiply-adds per second, the best of torch.mm on matrices that fit the cache; and bytes per second (read plus
written), the best of Tensor.copy_ at working sets from 1 MiB to 256 MiB, so that what fits a cache is held
against the cache. A kernel takes at least

    max(multiply-adds / rate, bytes / bandwidth)

and a point the sum over its kernels. Multiply-adds of `genetic_conv2d`, per direction, are those of the plan
that needs the fewest (`gee_kernels.genetic_conv2d.plan.operations`), taps outside of the image not counted:

    dense plans   products of every position: K K C_in C_out (or, in gene space, K K g (C_in + C_out))
    event         one accumulation per non-zero input, tap and output channel, counted like a multiply-add
    gene codes    forward and gradient to x: decoding W, K K g (g C_out + C_in C_out), shared by all images;
                  gradient to codes: its two contractions, 2 K K g C_in C_out, and the products with G

Bytes, each tensor once: forward reads bits and codes and writes y; gradient to x reads the gradient and the
codes and writes one to x; gradient to codes reads the gradient, bits and codes and writes three gradients.
`lif` passes over x and spikes (forward), x, gradient and gradient to x (backward): 5 passes. `batch_norm_lif`
over x twice and spikes, then twice over x and the gradient, once over the gradient to x: 8. Their arithmetic
is not counted.
"""

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from bench._measure import Table, alternate, report
from gee_kernels import batch_norm_lif, decode_weight, genetic_conv2d, lif, pack_spikes
from gee_kernels.genetic_conv2d import plan as planning

AXES: dict[str, tuple[float, ...]] = {
    "density": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    "steps": (1, 2, 4, 8, 16),
    "batch": (1, 2, 4, 8, 16),
    "genes": (25, 50, 100, 200, 400),
    "channels": (64, 128, 256, 512),
    "threads": (1, 2),
}
CONVOLUTIONS = ["genetic_conv2d forward", "genetic_conv2d forward + backward"]
NEURONS = ["lif forward + backward", "batch_norm_lif forward + backward"]
POINTS = [
    (case, axis, value)
    for case in CONVOLUTIONS + NEURONS
    for axis, values in AXES.items()
    if case in CONVOLUTIONS or axis not in ("density", "genes")
    for value in values
]
TAPS = 9  # 3x3, stride 1, padding 1
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Point:
    """Where cost is measured; the defaults are the centre of every sweep."""

    density: float = 0.1
    steps: int = 4
    batch: int = 8
    genes: int = 100
    channels: int = 256
    threads: int = 2
    size: int = 16  # height and width

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.steps * self.batch, self.channels, self.size, self.size

    @property
    def values(self) -> int:
        """Values of one activation tensor."""
        return self.steps * self.batch * self.channels * self.size**2


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do with a number of threads."""

    multiply_adds: float  # per second, float32
    copy: dict[int, float]  # bytes per second, read plus written, by working set in bytes

    @classmethod
    def measure(cls) -> "Ceilings":
        """With the current number of threads; the best of several rounds, as a ceiling is."""
        products = {}
        for n in (256, 512, 1024):
            a, b, out = torch.rand(n, n), torch.rand(n, n), torch.empty(n, n)
            products[str(n)] = functools.partial(torch.mm, a, b, out=out)
        times = alternate(products, rounds=9)
        rate = max(int(n) ** 3 / min(samples) for n, samples in times.items())
        copy = {}
        for working_set in (1 << exponent for exponent in range(20, 29)):
            source = torch.ones(working_set // 2 // FLOAT)
            target = torch.empty_like(source)
            samples = alternate({"copy": functools.partial(target.copy_, source)}, rounds=9)["copy"]
            copy[working_set] = working_set / min(samples)
        return cls(rate, copy)

    def seconds(self, multiply_adds: float, moved: float, working_set: float) -> float:
        """The least a kernel takes that does and moves (bytes) so much, on tensors of `working_set` bytes."""
        rates = [rate for size, rate in self.copy.items() if 2 * size > working_set]
        bandwidth = max(rates or [self.copy[max(self.copy)]])
        return max(multiply_adds / self.multiply_adds, moved / bandwidth)


def convolution_floor(point: Point, ceilings: Ceilings, backward: bool) -> float:
    """Seconds; see the head of this file."""
    images, channels, size, _ = point.shape
    shape = planning.Shape(images, channels, size, size, channels, point.genes, 3, 1, 1)
    inside = ((3 * size - 2) / (3 * size)) ** 2  # share of the taps that fall into the image
    shares = {"product": inside, "event": inside * point.density, "code": 1.0}
    activation, bits = point.values * FLOAT, point.values // 8
    codes = (2 * TAPS * channels * point.genes + point.genes**2) * FLOAT
    moved = {"forward": bits + codes + activation}
    if backward:
        moved["grad_x"] = activation + codes + activation
        moved["grad_codes"] = activation + bits + codes + codes
    seconds = 0.0
    for direction, count in moved.items():
        plans = (planning.operations(direction, plan, shape) for plan in planning.COSTS["cpu"][direction])
        fewest = min(
            sum(shares[kind] * n for kind, n in counts.items() if kind in shares) for counts in plans
        )
        if direction == "grad_codes":
            fewest += 3 * TAPS * channels * point.genes**2
        seconds += ceilings.seconds(fewest, count, count)
    return seconds


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@dataclass(frozen=True)
class Case:
    """What is timed at a point: gee, what it is compared with, a check that raises, and the floor."""

    gee: Callable[[], object]
    other_name: str
    other: Callable[[], object]
    verify: Callable[[], None]
    floor: float  # seconds


def convolution(point: Point, ceilings: Ceilings, backward: bool) -> Case:
    generator = torch.Generator().manual_seed(0)
    genes, channels = point.genes, point.channels

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x = (torch.rand(point.shape, generator=generator) < point.density).float()
    bits = pack_spikes(x)
    x = x.contiguous(memory_format=torch.channels_last)
    codes = normal(channels, genes, 3, 3), normal(genes, genes) / genes, normal(channels, genes, 3, 3)
    weight = decode_weight(*codes).contiguous(memory_format=torch.channels_last)
    grad = normal(*point.shape).contiguous(memory_format=torch.channels_last)
    for leaf in (x, weight, *codes):
        leaf.requires_grad_(backward)

    def run(y: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(y, inputs, grad) if backward else (y,)

    def ours() -> tuple[Tensor, ...]:
        return run(genetic_conv2d(x, *codes, bits=bits), (x, *codes))

    def verify() -> None:
        expected = run(genetic_conv2d(x, *codes, backend="reference"), (x, *codes))
        for found, wanted in zip(ours(), expected, strict=True):
            assert relative_error(found, wanted) < 1e-5

    return Case(
        ours,
        "dense convolution",
        lambda: run(conv2d(x, weight, None, 1, 1), (x, weight)),
        verify,
        convolution_floor(point, ceilings, backward),
    )


def neurons(point: Point, ceilings: Ceilings, norm: bool) -> Case:
    generator = torch.Generator().manual_seed(0)
    x, grad = (
        torch.randn(point.shape, generator=generator).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    inputs = [x.requires_grad_()]
    if norm:
        weight, bias = torch.ones(point.channels), torch.zeros(point.channels)
        inputs += [weight.requires_grad_(), bias.requires_grad_()]
        statistics = torch.zeros(point.channels), torch.ones(point.channels)

    def spikes_of(backend: str) -> Tensor:
        if norm:
            options = {"time_steps": point.steps, "backend": backend}
            return batch_norm_lif(x, weight, bias, *statistics, **options).spikes
        return lif(x.unflatten(0, (point.steps, -1)), backend=backend).flatten(0, 1)

    def gradients(spikes: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(spikes, inputs, grad)

    def verify() -> None:
        found, wanted = spikes_of("fused"), spikes_of("reference")
        # The norm rounds differently, so a potential at the threshold may flip, and its gradient with it.
        assert (found != wanted).float().mean().item() <= (1e-4 if norm else 0.0)
        for a, b in zip(gradients(found), gradients(wanted), strict=True):
            assert relative_error(a, b) < (1e-2 if norm else 1e-5)

    moved = point.values * FLOAT * (8 if norm else 5)
    source = torch.ones(moved // 2 // FLOAT)
    return Case(
        lambda: gradients(spikes_of("fused")),
        "copy of the same bytes",
        source.clone,
        verify,
        ceilings.seconds(0, moved, 4 * point.values * FLOAT),  # x, spikes and the two gradients
    )


class Growth(Table):
    """The rows of the sweeps; drawn as one panel per operator and parameter."""

    def plot(self, path) -> None:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot

        cases = [case for case in CONVOLUTIONS + NEURONS if any(row.case == case for row in self.rows)]
        figure, axes = pyplot.subplots(
            len(cases), len(AXES), figsize=(2.6 * len(AXES), 2.5 * len(cases) + 0.8), squeeze=False,
            sharex="col", sharey="row", layout="constrained",
        )  # fmt: skip
        for line, case in zip(axes, cases, strict=True):
            for axis, name in zip(line, AXES, strict=True):
                rows = [row for row in self.rows if row.case == case and row.parameters["varied"] == name]
                self._panel(axis, name, rows)
            line[0].set_ylabel("milliseconds")
            # The title of a row stands over its first panel, which is empty where density does not enter.
            line[0].set_title(case, loc="left", fontsize=10, fontweight="bold")
        for axis, name in zip(axes[-1], AXES, strict=True):
            axis.set_xlabel({"steps": "time steps T"}.get(name, name))
        handles = {
            label: handle
            for axis in axes.flat
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle(self._title(), fontsize=9)
        figure.savefig(path, dpi=110)
        pyplot.close(figure)

    def _panel(self, axis, name: str, rows: list) -> None:
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, which="major", alpha=0.25)
        # The same ticks in every panel of a column, since its panels share them.
        ticks = sorted({row.parameters[name] for row in self.rows if row.parameters["varied"] == name})
        axis.set_xticks(ticks, [f"{v:.0%}" if name == "density" else f"{v}" for v in ticks], fontsize=8)
        axis.minorticks_off()
        axis.margins(x=0.08)
        if not rows:
            axis.text(0.5, 0.5, "does not enter", transform=axis.transAxes, ha="center", color="0.5")
            return
        styles = {"gee": ("C0", "o"), "dense convolution": ("C1", "s"), "copy of the same bytes": ("C2", "^")}
        for contestant, (colour, marker) in styles.items():
            mine = [row for row in rows if row.contestant == contestant]
            if not mine:
                continue
            x, t = [row.parameters[name] for row in mine], [row.milliseconds for row in mine]
            spread = [[s.median - s.low for s in t], [s.high - s.median for s in t]]
            axis.errorbar(
                x, [s.median for s in t], spread, color=colour, marker=marker, markersize=4, capsize=2,
                linewidth=1.2, label=contestant,
            )  # fmt: skip
        mine = [row for row in rows if row.contestant == "gee"]
        x = [row.parameters[name] for row in mine]
        axis.plot(
            x, [row.parameters["floor_ms"] for row in mine], "--", color="black", linewidth=1, label="floor"
        )

    def _title(self) -> str:
        facts = self.environment()
        rates = [
            f"{threads} thread{'' if int(threads) == 1 else 's'}: "
            f"{found['multiply_adds'] / 1e9:.0f} G multiply-adds/s, "
            f"copy {found['copy'][max(found['copy'], key=int)] / 1e9:.1f} GB/s"
            for threads, found in facts["ceilings"].items()
        ]
        centre = Point()
        return (
            f"{facts['cpu']}, torch {facts['torch']}; {'; '.join(rates)} (256 MiB)\n"
            f"centre: {centre.channels} channels @ {centre.size}x{centre.size}, g = {centre.genes}, "
            f"T = {centre.steps}, batch {centre.batch}, {centre.density:.0%} density, "
            f"{centre.threads} threads; "
            "medians, quartiles"
        )


@pytest.fixture(scope="module")
def ceilings():
    threads, found = torch.get_num_threads(), {}
    for count in AXES["threads"]:
        torch.set_num_threads(int(count))
        found[count] = Ceilings.measure()
    yield found
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def table(ceilings):
    table = Growth("growth", ceilings={threads: asdict(found) for threads, found in ceilings.items()})
    yield table
    table.write()


@pytest.mark.parametrize(("case", "axis", "value"), POINTS)
def test_growth(benchmark, table, ceilings, case, axis, value):
    point = replace(Point(), **{axis: value})
    torch.set_num_threads(point.threads)
    if case in CONVOLUTIONS:
        work = convolution(point, ceilings[point.threads], backward="backward" in case)
    else:
        work = neurons(point, ceilings[point.threads], norm="norm" in case)
    rows = table.add(
        case,
        {"gee": work.gee, work.other_name: work.other},
        baseline=work.other_name,
        verify=work.verify,
        rounds=5 if case in CONVOLUTIONS else 9,
        warmup=1,
        varied=axis,
        floor_ms=1e3 * work.floor,
        **asdict(point),
    )
    report(benchmark, rows, "gee", work.gee, rounds=1)
