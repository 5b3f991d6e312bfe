"""Table 2: accuracy and parameters of every network and number of genes, evolved with STE.

The parameters of the paper's own sizes are counted whatever the preset; accuracies are those of the networks
that were trained.
"""

from collections.abc import Sequence

from bench.paper import figures, published
from bench.paper.options import Configuration
from bench.paper.runner import Experiment, Row, Run, Table, main, paper_size_parameters, row
from bench.paper.summary import groups, mean, seeds, show
from gee.data import Dataset

CONFIGURATIONS = tuple(
    Configuration(network.model, network.genes, tail_channels=network.tail_channels)
    for network in published.TABLE2
)


def rows_of(run: Run, data: Dataset) -> list[Row]:
    return [row(run) | {"paper_size_parameters": paper_size_parameters(run.configuration, len(data.classes))}]


def _published(model: str, genes: int) -> published.Network:
    return next(n for n in published.TABLE2 if (n.model, n.genes) == (model, genes))


def compare(rows: Sequence[Row]) -> Table:
    header = ["network, genes", "accuracy, ours (%)", "seeds", "accuracy, paper (%)"]
    header += ["parameters", "at full size (M)", "paper (M)"]
    lines = []
    for (model, genes), group in groups(rows, "network", "genes_paper"):
        theirs, dataset = _published(model, genes), group[0]["dataset"]
        accuracy, parameters = theirs.accuracy.get(dataset), theirs.parameters.get(dataset)
        trained = group[0]["parameters"]
        lines.append(
            [
                f"{theirs.label}, {genes}",
                show(mean(group, "accuracy", 100)),
                seeds(group),
                f"{accuracy:.2f}" if accuracy else "-",
                f"{trained:,}" if trained else "-",
                f"{group[0]['paper_size_parameters'] / 1e6:.2f}",
                f"{parameters:.2f}" if parameters else "-",
            ]
        )
    return header, lines


def figure(rows: Sequence[Row]) -> figures.Figure:
    found = list(groups(rows, "network", "genes_paper"))
    theirs = [_published(*key).accuracy.get(group[0]["dataset"]) for key, group in found]
    return figures.values(
        [f"{_published(*key).label}, g = {key[1]}" for key, _ in found],
        [mean(group, "accuracy", 100) for _, group in found],
        [[value] if value else [] for value in theirs],
        "held-out accuracy (%)",
    )


EXPERIMENT = Experiment(
    "table2_accuracy",
    "Table 2: accuracy and parameters",
    __doc__ or "",
    figure,
    compare,
    CONFIGURATIONS,
    rows_of,
)

if __name__ == "__main__":
    main(EXPERIMENT)
