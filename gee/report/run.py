"""What a run directory holds, read without disturbing a run that is still going."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gee.search.executor import Evaluation
from gee.search.fitness import Fitness
from gee.training.logs import read_metrics


@dataclass(frozen=True)
class Run:
    """A run directory's contents; whatever is not there yet is empty or None."""

    path: Path
    config: Mapping[str, Any]
    about: Mapping[str, Any]  # run.json: versions, machine
    candidates: Sequence[Mapping[str, Any]]  # lines of candidates.jsonl, by generation and index
    epochs: Sequence[Mapping[str, Any]]  # lines of metrics.jsonl
    result: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def genes(self) -> str:
        genes = self.setting("genes")
        return f"{genes} genes" if genes else "dense"

    def setting(self, key: str) -> Any:
        """The value of `key` in the configuration, in whichever of its parts it stands; None if in none."""
        return _find(self.config, key)

    @cached_property
    def scores(self) -> list[float | None]:
        """F of every candidate with the d(n) of the last generation (Eq. 16); None for a failed one.

        The recorded values are not comparable between generations, because d(n) falls.
        """
        if not self.candidates:
            return []
        c = self.config
        fitness = Fitness.of(c["method"], c["td_weight"], c["se_weight"], c["novelty_decay"])
        last = self.candidates[-1]["generation"]
        return [
            None
            if candidate["failure"] is not None
            else fitness(
                Evaluation(
                    cross_entropy=candidate["cross_entropy"],
                    temporal_difference=candidate["temporal_difference"],
                    spatial_entropy=candidate["spatial_entropy"],
                ),
                last,
            )
            for candidate in self.candidates
        ]

    @property
    def best(self) -> tuple[Mapping[str, Any], float] | None:
        """The best candidate so far, and its score."""
        pairs = zip(self.candidates, self.scores, strict=True)
        done = [(candidate, score) for candidate, score in pairs if score is not None]
        return min(done, key=lambda pair: pair[1], default=None)


def read_run(path: str | Path) -> Run:
    """Read the run directory `path`, of a search or of a training, finished or not.

    Raises:
        FileNotFoundError: there is no such directory, or no config.json in it.
        ValueError: a file in it is damaged.
    """
    path = Path(path)
    config = _json(path / "config.json")
    if config is None:
        raise FileNotFoundError(f"{path} is not a run directory: it has no config.json")
    searched = (path / "candidates.jsonl").exists()
    return Run(
        path=path.resolve(),
        config=config,
        about=_json(path / "run.json") or {},
        candidates=_candidates(path / "candidates.jsonl"),
        epochs=read_metrics((path / "train" if searched else path) / "metrics.jsonl"),
        result=_json(path / "result.json"),
    )


def _find(config: Mapping[str, Any], key: str) -> Any:
    if key in config:
        return config[key]
    parts = (value for value in config.values() if isinstance(value, Mapping))
    return next((found for part in parts if (found := _find(part, key)) is not None), None)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _candidates(path: Path) -> list[Mapping[str, Any]]:
    """The whole lines of candidates.jsonl; a last line without its end is still being written."""
    if not path.exists():
        return []
    *whole, _ = path.read_bytes().split(b"\n")
    try:
        lines = [json.loads(line) for line in whole]
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return sorted(lines, key=lambda line: (line["generation"], line["index"]))
