"""Truncated normal draws are exact and repeatable; networks spike in every layer from the start."""

import math

import pytest
import torch

from gee.models import Genotype, TruncatedNormal, create_model, initialise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cdf(x: float, d: TruncatedNormal) -> float:
    """Distribution function of the cut normal, from the error function alone."""

    def phi(z: float) -> float:
        return 0.5 * math.erfc(-z / math.sqrt(2))

    low, high = d.low / d.sigma, d.high / d.sigma
    if low > 0:  # the same by symmetry, where erfc keeps its digits
        return (phi(-low) - phi(-x / d.sigma)) / (phi(-low) - phi(-high))
    return (phi(x / d.sigma) - phi(low)) / (phi(high) - phi(low))


DISTRIBUTIONS = [
    TruncatedNormal(1.0, -2.0, 2.0),
    TruncatedNormal(0.3, -0.1, 0.7),
    TruncatedNormal(0.05, -5.0, 5.0),  # hardly cut
    TruncatedNormal(10.0, -0.5, 0.2),  # nearly uniform
    TruncatedNormal(1.0, 3.0, 4.0),  # one tail
    TruncatedNormal(1.0, 12.0, 14.0),  # far out in it
    TruncatedNormal(1.0, -14.0, -12.0),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_draws_follow_the_distribution(distribution):
    """Kolmogorov-Smirnov against the exact distribution function, at a level of 1 in 1000."""
    n = 20_000
    x = distribution.sample((n,), generator()).sort().values
    assert x.dtype == torch.float64
    assert x.min() >= distribution.low
    assert x.max() <= distribution.high
    expected = torch.tensor([cdf(v, distribution) for v in x.tolist()])
    steps = torch.arange(n) / n
    distance = torch.maximum((expected - steps).abs().max(), (expected - steps - 1 / n).abs().max()).item()
    assert distance < 1.95 / math.sqrt(n)


def test_default_genotype_scales_the_decoded_weights():
    for genes in (4, 32):
        genotype = Genotype.default(genes)
        x, y = (genotype.encodings.sample((400, genes), generator(seed)) for seed in (1, 2))
        w = x @ genotype.interaction.sample((genes, genes), generator(3)) @ y.T
        assert w.std().item() == pytest.approx(0.05, rel=0.35 if genes == 4 else 0.1)


def test_initialise_is_deterministic_and_touches_genes_alone():
    torch.manual_seed(0)
    model = create_model("resnet18", genes=4, width=0.1)
    torch.manual_seed(0)
    same = create_model("resnet18", genes=4, width=0.1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))
    genotype = Genotype(TruncatedNormal(0.5, -0.2, 1.0), TruncatedNormal(0.1, -0.3, 0.0))
    initialise(model, genotype, generator(3))
    torch.manual_seed(99)  # the global generator plays no part
    initialise(same, genotype, generator(3))
    encodings, interaction = model.genetic_parameters()
    for a, b in zip(model.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    for x in encodings:
        assert x.min() >= -0.2
        assert x.max() <= 1.0
    assert interaction.max() <= 0.0
    assert interaction.min() >= -0.3
    torch.manual_seed(0)
    untouched = dict(create_model("resnet18", genes=4, width=0.1).named_parameters())
    for name, p in model.named_parameters():
        genetic = name == "interaction" or name.endswith("encoding")
        assert torch.equal(p, untouched[name]) != genetic, name
    initialise(same, genotype, generator(4))
    assert not torch.equal(interaction, same.interaction)


def test_the_interaction_itself_may_be_the_genotype():
    model = create_model("digitsnet", genes=3, in_channels=1)
    g = torch.arange(9.0).view(3, 3)
    initialise(model, Genotype(TruncatedNormal(0.1, -1, 1), g), generator())
    assert torch.equal(model.interaction, g)
    with pytest.raises(ValueError, match=r"genotype.interaction must be \[3, 3\], got \[2, 2\]"):
        initialise(model, Genotype(TruncatedNormal(0.1, -1, 1), g[:2, :2]), generator())


def test_errors():
    with pytest.raises(ValueError, match="sigma must be positive and finite, got 0"):
        TruncatedNormal(0, -1, 1)
    with pytest.raises(ValueError, match="sigma must be positive and finite, got nan"):
        TruncatedNormal(math.nan, -1, 1)
    with pytest.raises(ValueError, match="low must be below high, got low=1, high=1"):
        TruncatedNormal(1, 1, 1)
    with pytest.raises(ValueError, match=r"within 30 sigma of 0, got \[4, 5\] for sigma 0.1"):
        TruncatedNormal(0.1, 4, 5)
    with pytest.raises(ValueError, match="must have genes"):
        initialise(create_model("digitsnet", genes=None, in_channels=1), Genotype.default(3))


def natural_images(batch: int, size: int) -> torch.Tensor:
    """[B, 3, size, size] with the smooth correlations and the unit variance of normalised photographs."""
    g = generator(7)
    x = torch.zeros(batch, 3, size, size)
    for cells in (2, 4, 8, 16):  # power falls with frequency
        coarse = torch.randn(batch, 3, cells, cells, generator=g) / cells
        x += torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    x += x.mean(1, keepdim=True)  # the colours go together
    return (x - x.mean()) / x.std()


@pytest.mark.parametrize(
    ("name", "genes", "width", "size"),
    [
        ("resnet19", 100, 1.0, 32),
        ("resnet18", 32, 0.25, 32),
        ("cifarnet", 32, 0.25, 32),
        ("vgg16", 32, 0.25, 32),
        ("resnet34", 32, 0.25, 64),
        ("digitsnet", 16, 1.0, 8),
    ],
)
def test_every_layer_fires_at_initialisation(name, genes, width, size):
    torch.manual_seed(0)
    model = create_model(name, genes=genes, width=width)
    images = natural_images(2, size)
    with torch.no_grad():
        model(images)
    rates = {layer: rate.item() for layer, rate in model.firing_rates().items()}
    assert all(0.02 < rate < 0.6 for rate in rates.values()), rates


@pytest.mark.parametrize("name", ["resnet19", "resnet34"])
def test_gradients_reach_the_first_encodings(name):
    """Gradients relative to the parameters' norms neither vanish nor explode through the depth."""
    torch.manual_seed(0)
    model = create_model(name, genes=16, width=0.125)
    logits = model(natural_images(4, 32))
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    encodings, interaction = model.genetic_parameters()
    relative = torch.stack([x.grad.norm() / x.norm() for x in [*encodings, interaction]])
    assert relative.isfinite().all()
    assert relative.max() / relative.min() < 3000
    assert relative[0] > relative[-2] / 10, "vanishing towards the image"
