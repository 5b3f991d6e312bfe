"""The choice of a plan: what is picked, that it follows the predicted costs, and that it can be explained."""

import itertools

import pytest
import torch

from gee_kernels import explain_plan, genetic_conv2d
from gee_kernels.genetic_conv2d import calibrate
from gee_kernels.genetic_conv2d import plan as planning

SHAPES = [
    planning.Shape(32, c_in, size, size, c_out, genes, 3, stride, 1)
    for (c_in, c_out, size), genes, stride in itertools.product(
        [(128, 128, 32), (256, 256, 16), (512, 512, 8), (3, 64, 32), (1, 1, 1)], (1, 25, 100, 200), (1, 2)
    )
]


@pytest.mark.parametrize("which", planning.DIRECTIONS)
def test_auto_is_the_cheapest_at_every_density(which):
    step = 1 / planning.DENSITY_STEPS  # the resolution of event_below
    for shape in SHAPES:
        dense, event_below = planning.choose(which, shape, "cpu")
        for density in (0.0, 0.01, 0.1, 0.3, 0.6, 1.0):
            taken = "event" if density < event_below else dense
            best = min(
                planning.predict(which, plan, shape, "cpu", density) for plan in planning.COSTS["cpu"][which]
            )
            if "event" in planning.COSTS["cpu"][which] and event_below <= density < event_below + step:
                best = max(best, planning.predict(which, "event", shape, "cpu", density + step))
            assert planning.predict(which, taken, shape, "cpu", density) <= best * (1 + 1e-9)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_materialize_is_never_chosen(device):
    for shape, which in itertools.product(SHAPES, planning.DIRECTIONS):
        plan, event_below = planning.choose(which, shape, device)
        assert plan in ("reconstruct", "gene")
        assert 0 <= event_below <= (1 if device == "cpu" and which != "grad_x" else 0)


def test_gene_space_is_left_when_genes_are_many():
    few = planning.Shape(64, 512, 8, 8, 512, 25, 3, 1, 1)
    many = planning.Shape(64, 128, 32, 32, 128, 200, 3, 1, 1)
    for which in ("forward", "grad_x"):
        assert planning.choose(which, few, "cuda")[0] == "gene"
        assert planning.choose(which, many, "cuda")[0] == "reconstruct"


def test_operations_are_counted_exactly():
    shape = planning.Shape(2, 5, 7, 6, 3, 4, 3, 2, 1)
    assert shape.positions == 2 * 4 * 3
    assert planning.operations("forward", "reconstruct", shape) == {
        "product": 24 * 9 * 5 * 3,
        "code": 9 * 4 * 5 * 3 + 9 * 4 * 4 * 3,
        "tile": 24 * 9 * 5 * 3 * 4 // 256,
    }
    assert planning.operations("forward", "gene", shape)["product"] == 24 * 9 * 4 * (5 + 3)
    assert planning.operations("grad_codes", "gene", shape)["product"] == 2 * 24 * 9 * 4 * (5 + 3)
    assert planning.operations("forward", "event", shape)["event"] == 24 * 9 * 5 * 3


def operands():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(s, generator=generator) for s in ((2, 16, 8, 8), (16, 7, 3, 3), (7, 7), (24, 7, 3, 3))
    ]


def calls(function):
    """Names and plans of the operators that run under `function`."""
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "gee_kernels":
                plans = [a for a in args if isinstance(a, str)]
                seen.append((func._schema.name.split("::")[1], plans[0], args[-1]))
            return func(*args, **(kwargs or {}))

    with Watch():
        function()
    return seen


def test_a_named_plan_holds_in_every_direction():
    tensors = [t.requires_grad_() for t in operands()]
    for plan in ("reconstruct", "gene"):
        seen = calls(lambda p=plan: genetic_conv2d(*tensors, plan=p).sum().backward())
        assert [name for name, *_ in seen] == [
            "genetic_conv2d",
            "genetic_conv2d_grad_x",
            "genetic_conv2d_grad_codes",
        ]
        assert {used for _, used, _ in seen} == {plan}
    forward, grad_x, grad_codes = calls(lambda: genetic_conv2d(*tensors, plan="event").sum().backward())
    assert (forward[1], grad_codes[1]) == ("event", "event")
    assert grad_x[1] in ("reconstruct", "gene")


def test_auto_runs_what_explain_plan_says():
    tensors = [t.requires_grad_() for t in operands()]
    x, pre, _, post = tensors
    said = explain_plan(x.shape, pre, post)
    forward, grad_x, grad_codes = calls(lambda: genetic_conv2d(*tensors).sum().backward())
    assert forward[1:] == (said.forward.dense_plan, said.forward.event_below)
    assert grad_x[1] == said.grad_x.dense_plan
    assert grad_codes[1:] == (said.grad_codes.dense_plan, said.grad_codes.event_below)


def test_explanation_reads():
    _, pre, _, post = operands()
    text = str(explain_plan((2, 16, 8, 8), pre, post, density=0.05))
    for word in ("forward", "grad_x", "grad_codes", "5.0% density", "7 genes", "ms"):
        assert word in text
    assert explain_plan((2, 16, 8, 8), pre, post, device="cuda").forward.event_below == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x_shape": (2, 15, 8, 8)}, r"x_shape must be \[N, 16, H, W\]"),
        ({"density": 1.5}, r"density must be in \[0, 1\], got 1.5"),
    ],
)
def test_explain_plan_names_what_is_wrong(arguments, message):
    _, pre, _, post = operands()
    with pytest.raises(ValueError, match=message):
        explain_plan(**{"x_shape": (2, 16, 8, 8), "pre": pre, "post": post} | arguments)


def test_a_plan_the_device_lacks_names_those_it_has():
    with pytest.raises(
        ValueError, match="plan must be one of auto, materialize, reconstruct, gene on cuda, got 'event'"
    ):
        planning.check_plan("event", "cuda")


def test_the_fit_recovers_costs():
    rows = [[1.0, 10.0], [5.0, 1.0], [3.0, 3.0]]
    times = [2 * a + 0.5 * b for a, b in rows]
    assert calibrate.fit(rows, times) == pytest.approx([2, 0.5])
    assert calibrate.fit(rows, [b for _, b in rows]) == pytest.approx([0, 1])
