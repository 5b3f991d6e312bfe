"""From the optimiser's coordinates to the genotype."""

import itertools

import numpy as np
import pytest
import torch

from gee.models import Genotype, TruncatedNormal, create_model, initialise
from gee.search.genotype import CENTRE, HALF_WIDTH, SIGMA_FACTOR, GenotypeSpace
from gee.search.strategy import Strategy


@pytest.mark.parametrize("kind", ["distributions", "full"])
def test_the_middle_of_the_cube_is_the_default_genotype(kind):
    space = GenotypeSpace(kind, genes=5)
    genotype, default = space.decode(space.start), Genotype.default(5)
    for name in ("sigma", "low", "high"):
        expected = pytest.approx(getattr(default.encodings, name))
        assert getattr(genotype.encodings, name) == expected
        if kind == "distributions":
            assert getattr(genotype.interaction, name) == expected
    if kind == "full":
        assert torch.equal(genotype.interaction, torch.zeros(5, 5))


def test_every_corner_and_every_point_is_a_valid_genotype_within_bounds():
    space = GenotypeSpace("distributions", genes=7)
    default = Genotype.default(7).encodings.sigma
    points = np.random.default_rng(0).random((200, 6)).tolist()
    for vector in [*itertools.product([0.0, 1.0], repeat=6), *points]:
        genotype = space.decode(vector)
        for d in (genotype.encodings, genotype.interaction):
            assert isinstance(d, TruncatedNormal)
            assert d.low < d.high
            assert default / SIGMA_FACTOR <= d.sigma * (1 + 1e-12)
            assert d.sigma <= default * SIGMA_FACTOR * (1 + 1e-12)
            centre, half = (d.high + d.low) / 2 / d.sigma, (d.high - d.low) / 2 / d.sigma
            assert CENTRE.low - 1e-9 <= centre <= CENTRE.high + 1e-9
            assert HALF_WIDTH.low - 1e-9 <= half <= HALF_WIDTH.high + 1e-9


def test_sigma_is_on_a_logarithmic_scale():
    space = GenotypeSpace("distributions", genes=7)
    low, middle, high = (space.decode([u] + [0.5] * 5).encodings.sigma for u in (0.0, 0.5, 1.0))
    assert middle / low == pytest.approx(SIGMA_FACTOR)
    assert high / middle == pytest.approx(SIGMA_FACTOR)


def test_coordinates_move_what_they_are_named_for():
    space = GenotypeSpace("distributions", genes=7)
    at = space.decode(space.start)
    for i in range(6):
        vector = list(space.start)
        vector[i] = 0.7
        moved = space.decode(vector)
        assert (moved.encodings == at.encodings) == (i >= 3)
        assert (moved.interaction == at.interaction) == (i < 3)


@pytest.mark.parametrize("kind", ["distributions", "full"])
def test_what_the_optimiser_asks_initialises_a_network(kind):
    space = GenotypeSpace(kind, genes=4)
    strategy = Strategy(space.start, 0.3, 4, seed=1, diagonal=space.diagonal)
    model = create_model("cifarnet", genes=4, width=0.125)
    for vector in strategy.ask():
        genotype = space.decode(vector)
        initialise(model, genotype, torch.Generator().manual_seed(0))
        encodings, G = model.genetic_parameters()
        for X in encodings:
            assert X.min() >= genotype.encodings.low - 1e-6
            assert X.max() <= genotype.encodings.high + 1e-6
        described = space.describe(vector)
        if kind == "full":
            assert torch.equal(G, genotype.interaction)
            assert described["interaction"]["low"] == G.min().item()
            assert described["interaction"]["sigma"] == pytest.approx(G.std(correction=0).item())
        else:
            assert described["interaction"]["low"] <= G.min() + 1e-6


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="genotype must be 'distributions' or 'full', got 'half'"):
        GenotypeSpace("half", 3)
    with pytest.raises(ValueError, match="genes"):
        GenotypeSpace("full", 0)
    space = GenotypeSpace("distributions", 3)
    for vector in ([0.5] * 5, [0.5] * 5 + [1.5]):
        with pytest.raises(ValueError, match="6 numbers in"):
            space.decode(vector)
