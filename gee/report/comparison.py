"""The page about several runs: a table, overlaid curves, and whether fitness predicts accuracy."""

from collections.abc import Iterator, Sequence

from gee.report import figures, page
from gee.report.run import Run


def render(runs: Sequence[Run]) -> str:
    """The comparison of `runs` as HTML."""
    return page.page("Comparison", f"{len(runs)} runs, by name.", _body(runs))


def fitness_and_accuracy(runs: Sequence[Run]) -> list[tuple[str, float, float]]:
    """(name, best candidate's fitness, final held-out accuracy) of the runs that know both."""
    return [
        (run.name, run.best[1], run.result["accuracy"])
        for run in runs
        if run.best is not None and run.result is not None
    ]


def _body(runs: Sequence[Run]) -> Iterator[str]:
    yield page.section("Results", _table(runs))
    searched = {run.name: (run.candidates, run.scores) for run in runs if run.candidates}
    if searched:
        yield page.section(
            "Evolution",
            page.figure(
                figures.svg(figures.fitness_by_generation(searched)),
                "Fitness of every candidate (points) and the best so far (lines). Runs with different "
                "ablations "
                "minimise different fitnesses: compare shapes, not heights.",
                "760px",
            ),
        )
    trained = {run.name: run.epochs for run in runs if run.epochs}
    if trained:
        yield page.section(
            "Training", page.figure(figures.svg(figures.training_curves(trained)), "Full training, by epoch.")
        )
    yield _proxy(runs)


def _table(runs: Sequence[Run]) -> str:
    header = [
        "run",
        "model",
        "genes",
        "data",
        "candidates",
        "best F",
        "accuracy",
        "parameters",
        "spikes",
        "µJ",
        "state",
    ]
    rows = []
    for run in runs:
        r, best = run.result, run.best
        rows.append(
            [
                run.name,
                str(run.setting("model")),
                str(run.setting("genes") or "dense"),
                str(run.setting("dataset")),
                str(len(run.candidates) or "-"),
                f"{best[1]:.4f}" if best else "-",
                f"{r['accuracy']:.2%}" if r else "-",
                f"{r['parameters']:,}" if r else "-",
                f"{r['energy']['spikes']:,.0f}" if r else "-",
                f"{1000 * r['energy']['energy_mj']:,.3f}" if r else "-",
                "finished" if r else "not finished",
            ]
        )
    return page.table(header, rows)


def _proxy(runs: Sequence[Run]) -> str:
    points = fitness_and_accuracy(runs)
    if len(points) < 3:
        return page.section(
            "Does fitness predict accuracy?",
            page.paragraph(
                f"{len(points)} of these runs know both the fitness of their best candidate and its final "
                f"accuracy; "
                "a rank correlation needs at least 3."
            ),
        )
    from scipy.stats import kendalltau

    tau, p = kendalltau([-fitness for _, fitness, _ in points], [accuracy for *_, accuracy in points])
    return page.section(
        "Does fitness predict accuracy?",
        page.paragraph(
            f"Kendall's tau between the best candidate's fitness (lower is better) and the final held-out "
            f"accuracy "
            f"over {len(points)} runs: {tau:+.2f} (p = {p:.2f}). +1: the ranking by fitness is the "
            f"ranking by "
            "accuracy; 0: it says nothing. Only runs of the same model, data and ablation can be read "
            "this way."
        ),
        page.figure(
            figures.svg(figures.fitness_against_accuracy(points)),
            "Each point is a run.",
            "560px",
        ),
    )
