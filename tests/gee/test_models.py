"""Networks: parameter counts, shapes, genes, dense twins, compilation, checkpoints."""

import copy
import subprocess
import sys

import pytest
import safetensors.torch
import torch

import gee_kernels
from gee.layers import DenseConv2d, GeneticConv2d, SpikingConv2d
from gee.models import __main__ as command
from gee.models import create_model, describe_model, list_models
from gee.models.summary import summarise


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# Exact counts for 10 and 100 classes; rounded they are the paper's Table 2 (in M, to the digits given).
COUNTS = [
    ("cifarnet", {"genes": 100}, 3_721_754, 3_814_004, "3.72", "3.81"),
    ("cifarnet", {"genes": 200}, 7_438_154, 7_530_404, "7.44", "7.53"),
    ("vgg16", {"genes": 100}, 2_514_522, 2_698_932, "2.51", "2.70"),
    ("vgg16", {"genes": 200, "tail_channels": 1024}, 6_887_050, 7_255_780, "6.89", "7.26"),
    ("resnet18", {"genes": 100}, 3_659_418, 3_682_548, "3.66", "3.68"),
    ("resnet18", {"genes": 250}, 8_723_118, 8_746_248, "8.72", "8.75"),
    ("resnet19", {"genes": 100}, 4_352_154, 4_375_284, "4.35", "4.38"),
    ("resnet19", {"genes": 200}, 8_414_154, 8_437_284, "8.41", "8.44"),
]


@pytest.mark.parametrize(("name", "options", "ten", "hundred", "paper_ten", "paper_hundred"), COUNTS)
def test_parameters_are_the_papers(name, options, ten, hundred, paper_ten, paper_hundred):
    with torch.device("meta"):
        counts = [parameters(create_model(name, num_classes=n, **options)) for n in (10, 100)]
    assert counts == [ten, hundred]
    assert [f"{count / 1e6:.2f}" for count in counts] == [paper_ten, paper_hundred]


# Channels of all populations; then what no gene describes: first convolution, norms, shortcuts, head.
POPULATIONS = {
    "cifarnet": (4096, 6_912 + 8_192 + 10_250),
    "vgg16": (2752, 1_728 + 5_504 + 20_490),
    "resnet18": (3712, 3_456 + 7_424 + 163_840 + 131_328 + 2_570),
    "resnet19": (4480, 3_456 + 8_960 + 163_840 + 131_328 + 2_570),
    "resnet34": (7616, 9_408 + 15_232 + 172_032 + 5_130),
    "digitsnet": (192, 864 + 384 + 2_570),
}


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("genes", [1, 7, 150])
def test_parameters_for_any_number_of_genes(name, genes):
    channels, rest = POPULATIONS[name]
    with torch.device("meta"):
        model = create_model(name, genes=genes)
    assert parameters(model) == 9 * channels * genes + genes**2 + rest
    encodings, interaction = model.genetic_parameters()
    assert sum(x.numel() for x in encodings) == 9 * channels * genes
    assert interaction.shape == (genes, genes)


@pytest.mark.parametrize("name", list_models())
def test_dense_twin_is_the_same_graph(name):
    with torch.device("meta"):
        model, twin = create_model(name, genes=4), create_model(name, genes=None)
    assert twin.genetic_parameters() == ([], None)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    twin_shapes = {name: p.shape for name, p in twin.named_parameters()}
    genes = {name for name in shapes if name == "interaction" or name.endswith(".encoding")}
    decoded = {f"{name}.conv.weight" for name, m in twin.named_modules() if isinstance(m, SpikingConv2d)}
    decoded -= set(shapes)  # the first one is learned in both
    assert len(decoded) == len(genes) - 2  # one convolution between each two populations
    assert {k: v for k, v in shapes.items() if k not in genes} == {
        k: v for k, v in twin_shapes.items() if k not in decoded
    }


# The output of every population, for the image size that the network is made for.
SHAPES = {
    "cifarnet": (32, [(256, 32)] * 4 + [(512, 16)] * 2 + [(1024, 8)] * 2),
    "vgg16": (32, [(64, 32), (128, 32), *[(256, 16)] * 2, *[(512, 8)] * 2, *[(512, 4)] * 2]),
    "resnet18": (32, [(128, 32)] * 5 + [(256, 16)] * 4 + [(512, 8)] * 4),
    "resnet19": (32, [(128, 32)] * 7 + [(256, 16)] * 6 + [(512, 8)] * 4),
    "resnet34": (224, [(64, 112)] + [(64, 56)] * 6 + [(128, 28)] * 8 + [(256, 14)] * 12 + [(512, 7)] * 6),
    "digitsnet": (8, [(32, 8), (32, 8), (64, 4), (64, 4)]),
}


@pytest.mark.parametrize("name", list_models())
def test_shapes_and_codes(name):
    """Every population has the stated size, and every convolution the codes of the populations it joins."""
    size, expected = SHAPES[name]
    populations, joined = [], []
    with torch.device("meta"):
        model = create_model(name, genes=2, time_steps=3, backend="reference").eval()
        for layer in model.modules():
            if isinstance(layer, SpikingConv2d):
                layer.register_forward_hook(
                    lambda layer, args, out: populations.append((layer, args[0], out.values.shape))
                )
            if isinstance(layer, GeneticConv2d):
                layer.register_forward_hook(lambda layer, args, out: joined.append((layer, *args)))
        logits = model.step_logits(torch.empty(2, 3, size, size))
    assert logits.shape == (3, 2, 10)
    assert [tuple(shape) for _, _, shape in populations] == [(6, c, s, s) for c, s in expected]
    codes = [layer.encoding for layer, _, _ in populations]
    assert len(joined) == len(codes) - 1
    for before, after, (_, x, interaction, post) in zip(codes, codes[1:], joined, strict=False):
        assert x.encoding is before
        assert post is after
        assert interaction is model.interaction


def tiny(name: str, genes: int | None = 3, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(name, **{"genes": genes, "width": 0.1, "time_steps": 2, **options})


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def settle(model: torch.nn.Module, x: torch.Tensor) -> None:
    """Give the norms the running statistics of x, so that evaluation spikes as training does."""
    for layer in model.spiking_layers().values():
        layer.momentum = 1.0
    model(x)


@pytest.mark.parametrize("genes", [3, None])
@pytest.mark.parametrize("name", list_models())
def test_everything_learns(name, genes):
    """Every parameter gets a gradient, on the fused backend the reference's."""
    x = images(2, 3, 20, 20)
    gradients = []
    for backend in ("fused", "reference"):
        model = tiny(name, genes, backend=backend)
        model(x).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
        rates = torch.stack(list(model.firing_rates().values()))
        assert (rates > 0).all()
        assert (rates < 1).all()
    for key, gradient in gradients[0].items():
        assert gradient is not None, key
        assert gradient.isfinite().all(), key
        assert gradient.any(), key
        torch.testing.assert_close(
            gradient, gradients[1][key], rtol=1e-3, atol=1e-4 * gradient.abs().max().item()
        )


def test_logits_are_the_mean_over_steps_and_events_bring_their_own():
    model = tiny("digitsnet", in_channels=2)
    x = images(3, 2, 8, 8)
    steps = model.step_logits(x)
    assert steps.shape == (2, 3, 10)
    assert not torch.equal(steps[0], steps[1])
    assert torch.equal(model(x), steps.mean(0))
    # The same image at each step, as events: the same network, computed T times.
    torch.testing.assert_close(model.step_logits(torch.stack([x] * 2)), steps)
    assert model.step_logits(torch.stack([x] * 5)).shape == (5, 3, 10)


def test_first_convolution_runs_once_for_an_image(monkeypatch):
    model = tiny("resnet18")
    batches = []
    original = DenseConv2d.forward
    monkeypatch.setattr(
        DenseConv2d,
        "forward",
        lambda self, x, *genes: batches.append(len(x.values)) or original(self, x, *genes),
    )
    model(images(3, 3, 8, 8))
    assert batches[0] == 3  # B
    assert set(batches[1:]) == {6}  # T*B: the shortcuts


@pytest.mark.parametrize("name", ["digitsnet", "resnet34"])
def test_channels_last_and_bits_throughout(name, monkeypatch):
    """Every genetic convolution reads channels-last input, with bits unless it is graded."""
    seen = []
    original = gee_kernels.genetic_conv2d

    def spy(x, *args, bits, **options):
        seen.append(bits is not None)
        assert x.is_contiguous(memory_format=torch.channels_last)
        if bits is not None:
            assert torch.equal(gee_kernels.unpack_spikes(bits, x.shape[1], x.dtype), x)
        else:
            assert not ((x == 0) | (x == 1)).all()
        return original(x, *args, bits=bits, **options)

    monkeypatch.setattr(gee_kernels, "genetic_conv2d", spy)
    tiny(name)(images(2, 3, 24, 24))
    assert seen == ([True, False, True] if name == "digitsnet" else [True] * 32)


def test_any_image_size():
    for height, width in ((5, 8), (17, 20), (34, 34)):
        assert tiny("resnet19")(images(2, 3, height, width)).shape == (2, 10)
    for height, width in ((16, 19), (34, 48)):
        assert tiny("vgg16")(images(2, 3, height, width)).shape == (2, 10)


def test_width_scales_channels():
    with torch.device("meta"):
        model = create_model("resnet18", genes=2, width=0.25)
        assert create_model("resnet18", genes=2, width=0.01).stem.weight.shape == (8,)
    assert model.stem.weight.shape == (32,)
    assert model.head.output.in_features == 64


def test_neuron_options_reach_the_neurons():
    x = images(2, 3, 8, 8)
    base = tiny("resnet18").step_logits(x)
    for option in (
        {"tau": 3.0},
        {"v_threshold": 0.3},
        {"v_reset": None},
        {"decay_input": False},
    ):
        assert not torch.equal(tiny("resnet18", **option).step_logits(x), base), option
    for option in ({"surrogate": "atan"}, {"alpha": 3.0}, {"detach_reset": False}):
        model, other = tiny("resnet18"), tiny("resnet18", **option)
        for m in (model, other):
            m(x).sum().backward()
        assert not torch.equal(model.interaction.grad, other.interaction.grad), option


def test_compiles_whole():
    model = tiny("digitsnet")
    x = images(2, 3, 8, 8)
    expected = model(x)
    expected.square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    rates = model.firing_rates()
    again = tiny("digitsnet")
    logits = torch.compile(again, fullgraph=True)(x)
    logits.square().sum().backward()
    torch.testing.assert_close(logits, expected)
    for p, gradient in zip(again.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-3, atol=1e-5)
    assert {name: rate.item() for name, rate in again.firing_rates().items()} == {
        name: rate.item() for name, rate in rates.items()
    }


def test_autocast():
    model = tiny("resnet18")
    x = images(4, 3, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
    assert logits.dtype == torch.bfloat16
    logits.float().square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad.dtype == torch.float32, name
        assert p.grad.isfinite().all(), name
        assert p.grad.any(), name
    full = tiny("resnet18")
    full(x)
    rates, full_rates = (torch.stack(list(m.firing_rates().values())) for m in (model, full))
    torch.testing.assert_close(rates, full_rates, rtol=0, atol=0.03)


def test_distributed_data_parallel(tmp_path):
    """Shared codes get one gradient each; buffers and graph are what DistributedDataParallel expects."""
    x = images(2, 3, 8, 8)
    model, alone = tiny("resnet18"), tiny("resnet18")
    alone(x).square().sum().backward()
    torch.distributed.init_process_group(
        "gloo", init_method=(tmp_path / "rendezvous").as_uri(), rank=0, world_size=1
    )
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        for _ in range(2):  # the second pass would report parameters that had no gradient in the first
            model.zero_grad()
            parallel(x).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_parameters_are_registered_once(tmp_path):
    """Checkpoints hold no shared tensors, so safetensors takes them; copies keep one G and one X_p."""
    model = tiny("resnet18")
    model(images(2, 3, 8, 8)).sum().backward()
    state = model.state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    torch.manual_seed(5)
    other = create_model("resnet18", genes=3, width=0.1, time_steps=2)
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    x = images(2, 3, 8, 8)
    assert torch.equal(other.eval()(x), model.eval()(x))
    double = copy.deepcopy(model).double()
    assert all(p.dtype == torch.float64 for p in double.parameters())
    assert double(x.double()).dtype == torch.float64
    assert len(list(double.parameters())) == len(list(model.parameters()))
    assert torch.equal(copy.deepcopy(model)(x), model(x))


@pytest.mark.parametrize(
    ("name", "backend"), [*((name, "fused") for name in list_models()), ("resnet18", "reference")]
)
def test_deployed_form_gives_the_same_spikes(name, backend):
    """In float64, where no rounding moves a membrane across the threshold."""
    model = tiny(name, backend=backend).double()
    x = images(2, 3, 20, 20).double()
    with torch.no_grad():
        settle(model, x)
        expected = model.eval().step_logits(x)
        deployed = model.deploy()
        torch.testing.assert_close(deployed.step_logits(x), expected)
    rates = {layer: rate.item() for layer, rate in model.firing_rates().items()}
    assert {layer: rate.item() for layer, rate in deployed.firing_rates().items()} == rates
    assert all(rates.values())
    assert not any(p.requires_grad for p in deployed.parameters())
    kept, _ = deployed.genetic_parameters()
    assert len(kept) == len(model.genetic_parameters()[0])
    model(x)  # the original still trains
    with pytest.raises(RuntimeError, match="deployed network is for inference"):
        deployed.train()(x)


def test_deployed_dense_twin_is_the_twin():
    model = tiny("digitsnet", None).eval()
    x = images(2, 3, 8, 8)
    assert torch.equal(model.deploy()(x), model(x))


def test_bad_arguments_say_what_was_expected():
    with pytest.raises(ValueError, match=r"name must be one of cifarnet, .*got 'alexnet'"):
        create_model("alexnet", genes=2)
    with pytest.raises(ValueError, match="genes must be at least 1, got 0"):
        create_model("digitsnet", genes=0)
    with pytest.raises(ValueError, match="time_steps must be at least 1, got 0"):
        create_model("digitsnet", genes=1, time_steps=0)
    with pytest.raises(ValueError, match="width must be positive"):
        create_model("digitsnet", genes=1, width=0)
    with pytest.raises(ValueError, match="backend must be one of fused, reference, got 'cuda'"):
        create_model("digitsnet", genes=1, backend="cuda")
    with pytest.raises(TypeError, match=r"unknown option 'leak'.*tau, v_threshold"):
        create_model("digitsnet", genes=1, leak=2)
    with pytest.raises(ValueError, match=r"images must be \[B, 3, H, W\].*got \[2, 1, 8, 8\]"):
        tiny("digitsnet")(images(2, 1, 8, 8))
    with pytest.raises(RuntimeError, match="before the first forward pass"):
        tiny("digitsnet").firing_rates()


def test_list_and_describe():
    assert list_models() == ["cifarnet", "digitsnet", "resnet18", "resnet19", "resnet34", "vgg16"]
    assert "256x4" in describe_model("cifarnet")


@pytest.mark.parametrize("name", list_models())
def test_summary_adds_up(name):
    rows = summarise(name, genes=5)
    with torch.device("meta"):
        model, twin = create_model(name, genes=5), create_model(name, genes=None)
    assert sum(row.parameters for row in rows) == parameters(model)
    assert sum(row.dense_parameters for row in rows) == parameters(twin)
    weights = [m.weight.numel() for m in twin.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert sum(row.weights for row in rows) == sum(weights)
    encodings, _ = model.genetic_parameters()
    assert [row.encoding for row in rows if row.encoding][1:] == [tuple(x.shape) for x in encodings]


def test_command_line(capsys):
    command.main([])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list_models()
    command.main(["resnet19", "--genes", "100"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == ["total", "12,687,232", "4,352,154", "12,696,458", "2.92"]
    assert lines[2].split()[:2] == ["stem", "128"]
    for wrong, message in (
        (["resnet19", "--tail-channels", "8"], "unknown option 'tail_channels'"),
        (["alexnet"], "invalid choice: 'alexnet'"),
        (["vgg16", "--genes", "0"], "genes must be at least 1, got 0"),
    ):
        with pytest.raises(SystemExit) as stop:
            command.main(wrong)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_help_teaches():
    out = subprocess.run(
        [sys.executable, "-m", "gee.models", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for word in ("X_p", "interaction", "compression", "examples", "--genes", "--tail-channels"):
        assert word in out
