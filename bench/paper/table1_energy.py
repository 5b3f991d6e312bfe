"""Table 1: the energy arithmetic of Eq. 17 for ResNet-34 on images of 224x224, at the paper's size.

Nothing is trained. MACs do not depend on any weight. ACs are proportional to the firing rate, so they are
given for assumed rates, the same in every layer, and for what an untrained network fires at: random genes,
batch norms set to the statistics of the images that it is shown (held-out ones of the data set, enlarged to
224x224). A trained network may fire more or less. g is not stated for this network: it is taken as the one
that comes closest to the paper's 10.75 M parameters. Decoding the weights from genes is given apart, as it is
paid once for each time they are loaded.

With every neuron firing at every step, Eq. 17 gives the most that it can give for this graph. The paper's
43.24 mJ lie above that, so they count something else, too, or another graph; it does not say what.

Of the flags, only --dataset, --data-dir, --seeds and --results matter here.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bench.paper import figures, published
from bench.paper.options import Configuration, Options
from bench.paper.runner import Experiment, Row, Table, main, paper_size_parameters
from bench.paper.summary import Mean, mean, show
from gee.data import Dataset, InMemory
from gee.data.dataset import resize
from gee.energy import EnergyReport, energy_mj, profile
from gee.layers import SpikingConv2d
from gee.models import SpikingNetwork, create_model

RATES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # assumed
MODEL, SIZE, IMAGES, CLASSES = published.TABLE1_MODEL, published.TABLE1_IMAGE_SIZE, 4, 1000


def measure(options: Options, data: Dataset) -> list[Row]:
    genes = nearest_genes()
    images, note = _images(options)
    about: Row = {
        "network": MODEL,
        "genes": genes,
        "parameters": paper_size_parameters(Configuration(MODEL, genes), CLASSES),
        "image_size": SIZE,
        "time_steps": published.TIME_STEPS,
        "dataset": data.name,
        "held_out": note,
    }
    rows = []
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        model = create_model(MODEL, genes=genes, num_classes=CLASSES, time_steps=published.TIME_STEPS)
        _normalise(model, images)
        report = profile(model, images)
        full = _acs_at_full_rate(report)
        if not seed:
            rows += [about | _row("assumed", None, rate, rate * full, report) for rate in RATES]
        rows.append(about | _row("untrained", seed, report.acs / full, report.acs, report))
    return rows


def nearest_genes() -> int:
    """The number of genes whose parameters come closest to the paper's."""

    # They are a + b g + g^2: one code per population and gene, and G itself.
    one, two = (paper_size_parameters(Configuration(MODEL, genes), CLASSES) for genes in (1, 2))
    b = two - one - 3
    a = one - 1 - b
    target = published.TABLE1_PARAMETERS * 1e6
    return min(range(1, 1000), key=lambda genes: abs(a + b * genes + genes**2 - target))


def _row(case: str, seed: int | None, rate: float, acs: float, report: EnergyReport) -> Row:
    return {
        "case": case,
        "seed": seed,
        "firing_rate": rate,  # spikes per neuron and step, weighted by the synapses that they reach
        "macs": report.macs,
        "acs": acs,
        "energy_mj": energy_mj(report.macs, acs),
        "decode_macs": report.decode_macs,
        "decode_energy_mj": energy_mj(report.decode_macs, 0),
        "dense_energy_mj": report.dense_energy_mj,
        "failure": "",
    }


def _acs_at_full_rate(report: EnergyReport) -> int:
    """ACs per image if every neuron fired at every step: each synapse behind spikes adds once a step."""
    synapses = sum(layer.dense_macs for layer in report.layers if not layer.graded)
    return synapses * published.TIME_STEPS


def _images(options: Options) -> tuple[Tensor, str]:
    """The first held-out images, normalised, in three channels [IMAGES, 3, SIZE, SIZE]; which they are."""
    data = replace(options.data, image_size=None, train_images=None, test_images=IMAGES).load()
    assert isinstance(data, InMemory)  # as are all data sets that the experiments offer
    data.test_images = resize(data.test_images, SIZE)
    images, _ = next(iter(data.test_batches(IMAGES)))
    return images.expand(-1, 3, -1, -1), data.note


@torch.no_grad()
def _normalise(model: SpikingNetwork, images: Tensor) -> None:
    """Set the running statistics of every batch norm to those of `images`."""
    layers = [layer for layer in model.modules() if isinstance(layer, SpikingConv2d)]
    for layer in layers:
        layer.momentum = 1.0
    model.train()(images)
    for layer in layers:
        layer.momentum = 0.1


def compare(rows: Sequence[Row]) -> Table:
    header = ["firing rate", "G MAC", "G AC", "ours (mJ)", "decoding apart (mJ)"]
    header += ["conventional (mJ)", "paper (mJ)"]
    lines = [_line([row]) for row in rows if row["case"] == "assumed"]
    lines.append(_line([row for row in rows if row["case"] == "untrained"]))
    return header, lines


def _line(group: Sequence[Row]) -> list[str]:
    return [
        f"{show(mean(group, 'firing_rate', 100), 1)} %, {group[0]['case']}",
        show(mean(group, "macs", 1e-9), 3),
        show(mean(group, "acs", 1e-9), 3),
        show(mean(group, "energy_mj"), 3),
        f"{group[0]['decode_energy_mj']:.3f}",
        f"{group[0]['dense_energy_mj']:.3f}",
        f"{published.TABLE1_ENERGY_MJ:.2f}",
    ]


def figure(rows: Sequence[Row]) -> figures.Figure:
    assumed = [row for row in rows if row["case"] == "assumed"]
    untrained = [row for row in rows if row["case"] == "untrained"]
    rates = [100 * row["firing_rate"] for row in assumed]
    theirs = Mean(published.TABLE1_ENERGY_MJ, None, 1)  # at a rate that is not stated
    lines = [
        figures.Curve("assumed rates", rates, [Mean(row["energy_mj"], None, 1) for row in assumed]),
        figures.Curve(
            "untrained network", [mean(untrained, "firing_rate", 100).mean], [mean(untrained, "energy_mj")]
        ),
        figures.Curve("the paper's", [rates[0], rates[-1]], [theirs] * 2, paper=True),
    ]
    return figures.curves(lines, "firing rate (% of neurons and steps)", "energy per image (mJ)")


def describe(options: Options, data: Dataset) -> str:
    return (
        f"{MODEL} at the paper's size, T = {published.TIME_STEPS}, untrained; energies for one image of "
        f"{SIZE}x{SIZE}: 4.6 pJ a MAC, 0.9 pJ an AC. The untrained network's rate is that on {IMAGES} images "
        f"of {data.name}, enlarged."
    )


EXPERIMENT = Experiment(
    "table1_energy",
    "Table 1: energy of ResNet-34 at 224x224",
    __doc__ or "",
    figure,
    compare,
    measure=measure,
    describe=describe,
)

if __name__ == "__main__":
    main(EXPERIMENT)
