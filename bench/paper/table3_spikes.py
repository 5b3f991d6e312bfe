"""Table 3: how many spikes a network sends for an image.

The paper reports about 3 K spikes for ResNet-19 (g = 200) and does not say how it counts: for the whole
image, for a step, or for a layer. All three are given here. The runs are those of Table 2.
"""

from collections.abc import Sequence

from bench.paper import figures, published
from bench.paper.runner import Experiment, Row, Run, Table, main, row
from bench.paper.summary import groups, mean, seeds, show
from bench.paper.table2_accuracy import CONFIGURATIONS
from gee.data import Dataset

COUNTED = ("cifarnet", "resnet19")


def rows_of(run: Run, data: Dataset) -> list[Row]:
    columns = row(run)
    steps = run.config.network.time_steps
    layers = len(run.result["firing_rates"]) if run.result else 0
    spikes = columns["spikes"]
    return [
        columns
        | {
            "spikes_per_step": spikes / steps if run.result else None,
            "spikes_per_layer": spikes / layers if run.result else None,
            "spikes_per_step_and_layer": spikes / steps / layers if run.result else None,
            "mean_firing_rate": sum(run.result["firing_rates"].values()) / layers if run.result else None,
        }
    ]


def compare(rows: Sequence[Row]) -> Table:
    header = ["network, genes", "spikes per image", "per step", "per layer", "per step and layer"]
    header += ["firing rate", "seeds", "paper"]
    lines = []
    for (model, genes), group in groups(rows, "network", "genes_paper"):
        theirs = _published(group, model, genes)
        lines.append(
            [
                f"{model}, {genes}",
                show(mean(group, "spikes"), 0),
                show(mean(group, "spikes_per_step"), 0),
                show(mean(group, "spikes_per_layer"), 0),
                show(mean(group, "spikes_per_step_and_layer"), 0),
                show(mean(group, "mean_firing_rate"), 3),
                seeds(group),
                f"about {theirs[0]:,}" if theirs else "-",
            ]
        )
    return header, lines


def figure(rows: Sequence[Row]) -> figures.Figure:
    found = list(groups(rows, "network", "genes_paper"))
    return figures.values(
        [f"{model}, g = {genes}" for (model, genes), _ in found],
        [mean(group, "spikes") for _, group in found],
        [_published(group, *key) for key, group in found],
        "spikes per image, all steps and layers",
        log=True,
    )


def _published(group: Sequence[Row], model: str, genes: int) -> list[int]:
    known = group[0]["dataset"] == "cifar10" and (model, genes) in published.TABLE3_SPIKES
    return [published.TABLE3_SPIKES[model, genes]] if known else []


EXPERIMENT = Experiment(
    "table3_spikes",
    "Table 3: spikes per image",
    __doc__ or "",
    figure,
    compare,
    tuple(configuration for configuration in CONFIGURATIONS if configuration.model in COUNTED),
    rows_of,
)

if __name__ == "__main__":
    main(EXPERIMENT)
