"""Figure 3: accuracy against the number of genes.

The values of the paper's figure are not printed; beside ours stand those that its Table 2 has of the same
network.
"""

from collections.abc import Sequence

from bench.paper import figures, published
from bench.paper.options import Configuration
from bench.paper.runner import Experiment, Row, Table, main
from bench.paper.summary import Mean, groups, mean, seeds, show

GENES = (25, 50, 100, 200)
CONFIGURATIONS = tuple(Configuration(model, genes) for model in ("cifarnet", "resnet19") for genes in GENES)


def _published(model: str, dataset: str) -> dict[int, float]:
    """Genes -> accuracy in Table 2."""
    rows = [n for n in published.TABLE2 if n.model == model and dataset in n.accuracy]
    return {network.genes: network.accuracy[dataset] for network in rows}


def compare(rows: Sequence[Row]) -> Table:
    lines = []
    for (model, genes), group in groups(rows, "network", "genes_paper"):
        theirs = _published(model, group[0]["dataset"]).get(genes)
        parameters = group[0]["parameters"]
        lines.append(
            [
                f"{model}, {genes}",
                str(group[0]["genes"]),
                f"{parameters:,}" if parameters else "-",
                show(mean(group, "accuracy", 100)),
                seeds(group),
                f"{theirs:.2f}" if theirs else "-",
            ]
        )
    header = ["network, genes", "genes trained", "parameters trained", "accuracy, ours (%)", "seeds"]
    return [*header, "accuracy, paper (%)"], lines


def figure(rows: Sequence[Row]) -> figures.Figure:
    lines = []
    for (model,), group in groups(rows, "network"):
        points = [(genes, mean(part, "accuracy", 100)) for (genes,), part in groups(group, "genes_paper")]
        lines.append(figures.Curve(model, *zip(*points, strict=True)))
        theirs = _published(model, group[0]["dataset"])
        if theirs:
            values = [Mean(value, None, 1) for value in theirs.values()]
            lines.append(figures.Curve(f"{model}, the paper's Table 2", list(theirs), values, paper=True))
    return figures.curves(lines, "number of genes g, in the paper's numbers", "held-out accuracy (%)")


EXPERIMENT = Experiment(
    "figure3_genes",
    "Figure 3: accuracy and the number of genes",
    __doc__ or "",
    figure,
    compare,
    CONFIGURATIONS,
)

if __name__ == "__main__":
    main(EXPERIMENT)
