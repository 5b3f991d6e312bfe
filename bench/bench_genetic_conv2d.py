"""Plans of `genetic_conv2d` against dense torch convolution and against decode-then-convolve.

The dense contestants have their weights already; every plan of ours decodes, or contracts, within its time.
`gradient to codes` compares with the dense weight gradient followed by its contraction.
"""

import pytest
import torch
from torch.nn.functional import conv2d

from bench._measure import Table, report
from gee_kernels import decode_weight, genetic_conv2d, pack_spikes
from gee_kernels.genetic_conv2d import plan as planning

LAYERS = [(128, 32), (256, 16), (512, 8)]  # channels @ height and width: the stages of ResNet-19
IMAGES = 32  # T = 4, batch 8
GENES = 100
DENSITY = 0.1
DENSITIES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
# Density at 100 genes, then genes at 10 % density.
POINTS = [(GENES, density) for density in DENSITIES]
POINTS += [(genes, DENSITY) for genes in (25, 50, 200)]
DENSE = ["reconstruct", "gene"]

ops = torch.ops.gee_kernels


class Plans(Table):
    """Drawn as one panel per direction and layer, against density (left) and against genes (right)."""

    def plot(self, path) -> None:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot

        directions = list(dict.fromkeys(row.case for row in self.rows))
        layers = [f"{channels}@{size}" for channels, size in LAYERS]
        columns = [(layer, varied) for varied in ("density", "genes") for layer in layers]
        figure, axes = pyplot.subplots(
            len(directions), len(columns), figsize=(2.7 * len(columns), 2.7 * len(directions) + 0.8),
            squeeze=False, sharex="col", sharey="row", layout="constrained",
        )  # fmt: skip
        contestants = list(dict.fromkeys(row.contestant for row in self.rows))
        lines = {}
        for panels, case in zip(axes, directions, strict=True):
            for axis, (layer, varied) in zip(panels, columns, strict=True):
                rows = [row for row in self.rows if row.case == case and row.parameters["layer"] == layer]
                for i, name in enumerate(contestants):
                    mine = sorted(self._sweep(rows, name, varied), key=lambda point: point[0])
                    if not mine:
                        continue
                    x, t = zip(*mine, strict=True)
                    spread = [[s.median - s.low for s in t], [s.high - s.median for s in t]]
                    lines[name] = axis.errorbar(
                        x, [s.median for s in t], spread, color=f"C{i}", marker="o", markersize=3, capsize=2,
                        linewidth=2 if name == "auto" else 1,
                    )  # fmt: skip
                self._finish(axis, case, layer, varied)
            panels[0].set_ylabel(f"{case}, ms")
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=7, frameon=False)
        facts = self.environment()
        figure.suptitle(
            f"{facts['cpu']}, {self.rows[0].threads} threads, torch {facts['torch']}; {IMAGES} images; "
            f"g = {GENES} (left), {DENSITY:.0%} density (right); medians and quartiles",
            fontsize=9,
        )
        figure.savefig(path, dpi=110)
        pyplot.close(figure)

    @staticmethod
    def _sweep(rows, contestant, varied):
        """(value of `varied`, spread) of a contestant; the gradient to x is one row for all densities."""
        for row in rows:
            density, genes = row.parameters.get("density"), row.parameters["genes"]
            if row.contestant != contestant:
                continue
            if varied == "genes" and density in (None, DENSITY):
                yield genes, row.milliseconds
            if varied == "density" and genes == GENES:
                yield from ((d, row.milliseconds) for d in ([density] if density else DENSITIES))

    @staticmethod
    def _finish(axis, case, layer, varied):
        axis.set_xscale("log")
        axis.set_yscale("log")
        ticks, form = (DENSITIES, "{:.0%}") if varied == "density" else ([25, 50, 100, 200], "{}")
        axis.set_xticks(ticks, [form.format(tick) for tick in ticks], fontsize=8)
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, which="major", alpha=0.25)
        if case == "forward":
            axis.set_title(layer, fontsize=9)
        axis.set_xlabel(varied)


@pytest.fixture(scope="module")
def table():
    table = Plans("genetic_conv2d")
    yield table
    table.write()


class Layer:
    """Operands of one layer, channels-last: binary input with its bits, codes, decoded weight, gradient."""

    def __init__(self, channels: int, size: int, genes: int, density: float):
        generator = torch.Generator().manual_seed(0)

        def normal(*shape):
            return torch.randn(*shape, generator=generator)

        shape = IMAGES, channels, size, size
        self.size = size
        self.x = (torch.rand(shape, generator=generator) < density).float()
        self.bits = pack_spikes(self.x)
        self.codes = (
            normal(channels, genes, 3, 3),
            normal(genes, genes) / genes,
            normal(channels, genes, 3, 3),
        )
        self.weight = decode_weight(*self.codes)
        self.grad = normal(*shape).contiguous(memory_format=torch.channels_last)
        self.contiguous_x, self.x = self.x, self.x.contiguous(memory_format=torch.channels_last)
        self.contiguous_weight = self.weight
        self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        self.shape = planning.Shape.of(*shape[:1], size, size, self.codes[0], self.codes[2], 1, 1)

    def convolution_backward(self, x_wanted: bool) -> torch.Tensor:
        mask = [x_wanted, not x_wanted, False]
        grads = torch.ops.aten.convolution_backward(
            self.grad, self.x, self.weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask
        )
        return grads[0 if x_wanted else 1]

    def dense_grad_codes(self) -> tuple[torch.Tensor, torch.Tensor]:
        grad_weight = self.convolution_backward(False).flatten(2).permute(2, 0, 1)  # [9, C_out, C_in]
        pre, post = (code.flatten(2).permute(2, 0, 1) for code in (self.codes[0], self.codes[2]))
        return grad_weight.transpose(1, 2) @ post, grad_weight @ pre

    def grad_codes(self, plan: str, event_below: float = -1.0):
        return ops.genetic_conv2d_grad_codes(
            self.grad, None, self.bits, *self.codes, 1, 1, True, True, plan, event_below
        )

    def grad_x(self, plan: str):
        return ops.genetic_conv2d_grad_x(self.grad, *self.codes, self.size, self.size, 1, 1, plan)


def check_all(contestants, expected):
    """Every contestant gives what is expected, to float32 rounding of a long sum."""
    for name, call in contestants.items():
        out = call()
        for a, b in zip(out if isinstance(out, tuple) else (out,), expected, strict=True):
            error = ((a - b).norm() / b.norm()).item()
            assert error < 1e-5, f"{name}: relative error {error:.1e}"


def measure(table, benchmark, case, contestants, expected, layer, density=None):
    shape = layer.shape
    parameters = {"layer": f"{shape.c_in}@{shape.height}", "genes": shape.genes}
    if density is not None:
        parameters["density"] = density
    rows = table.add(
        case,
        contestants,
        baseline="dense",
        verify=lambda: check_all(contestants, expected),
        rounds=7,
        warmup=1,  # checking ran each of them once already
        **parameters,
    )
    report(benchmark, rows, "auto", contestants["auto"])


@pytest.mark.parametrize(("genes", "density"), POINTS)
@pytest.mark.parametrize(("channels", "size"), LAYERS)
def test_forward(table, benchmark, channels, size, genes, density):
    layer = Layer(channels, size, genes, density)
    x, bits = layer.x, layer.bits
    contestants = {
        "dense": lambda: conv2d(x, layer.weight, None, 1, 1),
        "dense, contiguous": lambda: conv2d(layer.contiguous_x, layer.contiguous_weight, None, 1, 1),
        "decode, then dense": lambda: genetic_conv2d(x, *layer.codes, plan="materialize"),
        **{
            p: lambda p=p: genetic_conv2d(x, *layer.codes, plan=p, bits=bits)
            for p in [*DENSE, "event", "auto"]
        },
    }
    with torch.no_grad():
        expected = (conv2d(x.double(), layer.weight.double(), None, 1, 1).float(),)
        measure(table, benchmark, "forward", contestants, expected, layer, density)


@pytest.mark.parametrize("genes", [25, 50, 100, 200])
@pytest.mark.parametrize(("channels", "size"), LAYERS)
def test_gradient_to_x(table, benchmark, channels, size, genes):
    layer = Layer(channels, size, genes, DENSITY)
    auto, _ = planning.choose("grad_x", layer.shape, "cpu")
    contestants = {
        "dense": lambda: layer.convolution_backward(True),
        **{plan: lambda p=plan: layer.grad_x(p) for plan in DENSE},
        "auto": lambda: layer.grad_x(auto),
    }
    measure(table, benchmark, "gradient to x", contestants, (layer.convolution_backward(True),), layer)


@pytest.mark.parametrize(("genes", "density"), POINTS)
@pytest.mark.parametrize(("channels", "size"), LAYERS)
def test_gradient_to_codes(table, benchmark, channels, size, genes, density):
    layer = Layer(channels, size, genes, density)
    auto, event_below = planning.choose("grad_codes", layer.shape, "cpu")
    contestants = {
        "dense": layer.dense_grad_codes,
        **{plan: lambda p=plan: layer.grad_codes(p) for plan in [*DENSE, "event"]},
        "auto": lambda: layer.grad_codes(auto, event_below),
    }
    measure(table, benchmark, "gradient to codes", contestants, layer.dense_grad_codes(), layer, density)
