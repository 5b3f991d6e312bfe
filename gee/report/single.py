"""The page about one run."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gee.energy import AC_PJ, MAC_PJ
from gee.report import figures, page
from gee.report.run import Run


def render(run: Run) -> str:
    """The report of `run` as HTML; what the run has not reached yet is left out, and said."""
    return page.page(_title(run), _lead(run), _body(run))


def _title(run: Run) -> str:
    return f"{run.setting('model')} on {run.setting('dataset')}, {run.genes}"


def _lead(run: Run) -> str:
    parts = [f"Run {run.name}"]
    if run.candidates:
        parts.append(
            f"{len(run.candidates)} candidates in {run.candidates[-1]['generation'] + 1} generations"
        )
    if run.epochs:
        parts.append(f"{len(run.epochs)} epochs of full training")
    if run.result is None:
        parts.append("Not finished: this page shows what there is so far")
    return ". ".join(parts) + "."


def _body(run: Run) -> Iterator[str]:
    result = run.result
    if result is not None:
        yield _headline(run, result)
        if result["note"]:
            yield page.paragraph(result["note"], "note")
    if run.candidates:
        yield _evolution(run)
    if run.epochs:
        yield _training(run)
    if result is not None:
        yield _activity(result)
        yield _energy(result)
        yield _confusion(result)
    yield _setup(run)


def _headline(run: Run, result: Mapping[str, Any]) -> str:
    low, high = result["accuracy_interval"]
    energy = result["energy"]
    cheaper = energy["dense_energy_mj"] / energy["energy_mj"] if energy["energy_mj"] else math.inf
    smaller = 1 - result["parameters"] / result["dense_parameters"]
    twin = f"the dense twin has {result['dense_parameters']:,}"
    if smaller > 0:
        twin = f"{smaller:.0%} fewer than the dense twin's {result['dense_parameters']:,}"
    steps = run.setting("time_steps")
    return page.tiles(
        [
            (
                f"{result['accuracy']:.1%}",
                "accuracy",
                f"{low:.1%} to {high:.1%} (95 %), {result['held_out']:,} held-out images",
            ),
            (f"{result['parameters']:,}", "parameters", twin),
            (f"{energy['spikes']:,.0f}", "spikes per image", f"all populations, T = {steps} steps"),
            (
                _microjoule(energy["energy_mj"]),
                "energy per image",
                f"{cheaper:.1f} times less than a conventional network on the same graph",
            ),
        ]
    )


def _microjoule(millijoule: float) -> str:
    return f"{1000 * millijoule:,.3g} µJ"


def _evolution(run: Run) -> str:
    failures = [c for c in run.candidates if c["failure"] is not None]
    parts = [
        page.figure(
            figures.svg(figures.fitness_by_generation({run.name: (run.candidates, run.scores)})),
            "Every candidate's fitness F = CE - d(n) (alpha TD + beta SE), Eq. 16, and the best so far; "
            "all are "
            "scored with the last generation's d(n), so that generations can be compared.",
            "680px",
        ),
        page.figure(
            figures.svg(figures.fitness_parts(run.candidates)),
            "What the fitness is made of: mean cross-entropy over the last epoch, how much the output "
            "changes "
            "between steps, and how evenly G spreads its weight. Points are candidates, lines medians.",
        ),
    ]
    if run.best is not None:
        rows = []
        for generation in sorted({c["generation"] for c in run.candidates}):
            pairs = zip(run.candidates, run.scores, strict=True)
            done = [(s, c) for c, s in pairs if s is not None and c["generation"] == generation]
            if done:
                _, leader = min(done, key=lambda pair: pair[0])
                rows.append((f"best of generation {generation}", leader["genotype"]))
        rows.append(("best of all", run.best[0]["genotype"]))
        parts.append(
            page.figure(
                figures.svg(figures.truncated_normals(rows)),
                "The evolved start: the truncated normal distributions from which encodings and "
                "interaction are "
                "drawn (Eq. 9); older generations are fainter.",
            )
        )
        parts.append(_genotypes(rows))
    if failures:
        parts.append(page.warning(f"{len(failures)} candidates failed and were ranked last."))
        text = "\n".join(
            f"generation {c['generation']}, index {c['index']}: {c['failure']}" for c in failures
        )
        parts.append(page.details("failures", text))
    return page.section("Evolution", *parts)


def _genotypes(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    def cells(label, genotype):
        values = [
            genotype[which][key] for which in ("encodings", "interaction") for key in ("sigma", "low", "high")
        ]
        return [label, *(f"{v:.4f}" for v in values)]

    header = ["", "X sigma", "X from", "X to", "G sigma", "G from", "G to"]
    *rest, last = (cells(*row) for row in rows)
    return page.table(header, rest, last)


def _training(run: Run) -> str:
    return page.section(
        "Training",
        page.figure(
            figures.svg(figures.training_curves({run.name: run.epochs})),
            "The best candidate, trained in full. The training loss includes label smoothing and "
            "augmentation, "
            "so it lies above the held-out one.",
        ),
    )


def _activity(result: Mapping[str, Any]) -> str:
    rates = result["firing_rates"]
    spikes = {layer["name"]: layer["spikes"] for layer in result["energy"]["layers"]}
    return page.section(
        "Spikes",
        page.figure(
            figures.svg(
                figures.by_layer(list(rates), list(rates.values()), [spikes.get(name, 0.0) for name in rates])
            ),
            "How often each population fires, and how many spikes it sends per image, counted by the kernels "
            "over held-out images.",
        ),
    )


def _energy(result: Mapping[str, Any]) -> str:
    total = {"name": "total", **result["energy"]}
    layers = total["layers"]
    columns = ("spikes", "acs", "macs", "energy_mj", "dense_energy_mj", "decode_macs")

    def cells(part: Mapping[str, Any]) -> list[str]:
        values = (1000 * part[key] if key.endswith("_mj") else part[key] for key in columns)
        digits = (3 if key.endswith("_mj") else 0 for key in columns)
        return [part["name"], *(f"{v:,.{d}f}" for v, d in zip(values, digits, strict=True))]

    return page.section(
        "Energy",
        page.figure(
            figures.svg(
                figures.energy(
                    [layer["name"] for layer in layers],
                    [AC_PJ * 1e-6 * layer["acs"] for layer in layers],
                    [MAC_PJ * 1e-6 * layer["macs"] for layer in layers],
                    [1000 * layer["dense_energy_mj"] for layer in layers],
                )
            ),
            f"E = {MAC_PJ} pJ per multiply-accumulate + {AC_PJ} pJ per accumulate (45 nm float32; Horowitz "
            "2014; Eq. 17), per image, exact to the synapse. Batch norm is folded and the neuron update "
            "not counted. "
            "Conventional: the same graph with real-valued activations, every synapse one multiplication.",
        ),
        page.table(
            ["layer", "spikes sent", "ACs", "MACs", "µJ", "conventional µJ", "decoding MACs"],
            map(cells, layers),
            cells(total),
        ),
        page.paragraph(
            f"Means over {total['images']:,} held-out images. Decoding is paid once for each time the "
            f"weights are "
            "loaded, not for each image, and is not in the energy.",
            "note",
        ),
    )


def _confusion(result: Mapping[str, Any]) -> str:
    return page.section(
        "Mistakes",
        page.figure(
            figures.svg(figures.confusion(result["confusion"], result["classes"])),
            f"{result['held_out']:,} held-out images by true and predicted class.",
            "520px",
        ),
    )


def _setup(run: Run) -> str:
    return page.section(
        "Setup",
        page.details("configuration (config.json)", json.dumps(run.config, indent=2)),
        page.details("versions and machine (run.json)", json.dumps(run.about, indent=2)),
    )
