"""What a run tells while it trains: metrics.jsonl, TensorBoard, one line per epoch and a progress bar."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from gee.files import write_atomically
from gee.training import distributed
from gee.training.config import TrainConfig
from gee.training.trainer import EpochMetrics, TrainingStep

TensorBoard = Literal["auto", "on", "off"]


def to_record(metrics: EpochMetrics) -> dict[str, Any]:
    """One line of metrics.jsonl. `epoch` counts completed epochs, from 1; `test_` is on held-out examples."""
    record: dict[str, Any] = {
        "epoch": metrics.epoch + 1,
        "loss": metrics.loss,
        "cross_entropy": metrics.cross_entropy,
        "accuracy": metrics.accuracy,
        "learning_rate": metrics.learning_rate,
        "gradient_norm": metrics.gradient_norm,
        "encoding_gradient_norms": metrics.encoding_gradient_norms,
        "seconds": metrics.seconds,
        "images_per_second": metrics.images_per_second,
    }
    if metrics.evaluation is not None:
        record |= {
            "test_loss": metrics.evaluation.loss,
            "test_accuracy": metrics.evaluation.accuracy,
            "test_accuracy_interval": metrics.evaluation.interval,
            "firing_rates": metrics.evaluation.firing_rates,
        }
    return record


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, of a run that is still going as well: a cut last line is left out."""
    path = Path(path)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


class MetricsLog:
    """metrics.jsonl and TensorBoard's scalars in a run directory.

    Args:
        run_dir: the run directory.
        completed: epochs completed; what an interrupted run wrote beyond them is dropped.
        tensorboard: `"auto"`: where it is installed.

    Raises:
        ModuleNotFoundError: TensorBoard is `"on"` and not installed.
    """

    def __init__(self, run_dir: Path, completed: int, tensorboard: TensorBoard = "auto"):
        self.path = run_dir / "metrics.jsonl"
        kept = [record for record in read_metrics(self.path) if record["epoch"] <= completed]
        write_atomically(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        self.records = kept
        self.writer: Any = None
        if tensorboard == "on" or (tensorboard == "auto" and importlib.util.find_spec("tensorboard")):
            self.writer = _summary_writer(run_dir / "tensorboard", completed)

    def write(self, metrics: EpochMetrics) -> None:
        """Append one epoch; on the disk when this returns."""
        record = to_record(metrics)
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self.writer is not None:
            for name, value in _scalars(record).items():
                self.writer.add_scalar(name, value, record["epoch"])
            self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _scalars(record: dict[str, Any]) -> dict[str, float]:
    """A record as TensorBoard's tags."""
    names = {
        "loss/train": "loss",
        "loss/train_cross_entropy": "cross_entropy",
        "loss/test": "test_loss",
        "accuracy/train": "accuracy",
        "accuracy/test": "test_accuracy",
        "optimiser/learning_rate": "learning_rate",
        "optimiser/gradient_norm": "gradient_norm",
        "speed/images_per_second": "images_per_second",
    }
    scalars = {tag: record[name] for tag, name in names.items() if name in record}
    for group in ("firing_rates", "encoding_gradient_norms"):
        scalars |= {f"{group}/{name}": value for name, value in record.get(group, {}).items()}
    return scalars


def _summary_writer(folder: Path, completed: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "TensorBoard is not installed; run `pip install 'gee[tensorboard]'`, or switch it off with "
            "--tensorboard off"
        ) from error
    return SummaryWriter(str(folder), purge_step=completed + 1)


class Progress:
    """A bar with rate and remaining time on a terminal, and a line for each epoch anywhere."""

    def __init__(self, config: TrainConfig, steps_per_epoch: int, completed: int, shown: bool):
        self.config, self.shown = config, shown and distributed.rank() == 0
        steps = config.epochs * steps_per_epoch
        self.bar = tqdm(
            total=steps * config.batch_size,
            initial=completed * steps_per_epoch * config.batch_size,
            unit=" images",
            unit_scale=True,
            dynamic_ncols=True,
            leave=False,
            disable=None if self.shown else True,  # None: only on a terminal
        )

    def step(self, step: TrainingStep) -> None:
        self.bar.update(self.config.batch_size)

    def epoch(self, metrics: EpochMetrics) -> None:
        if not self.shown:
            return
        line = (
            f"epoch {metrics.epoch + 1:3d}/{self.config.epochs}  loss {metrics.loss:.4f}  "
            f"training {metrics.accuracy:6.1%}"
        )
        if metrics.evaluation is not None:
            low, high = metrics.evaluation.interval
            line += f"  held-out {metrics.evaluation.accuracy:6.1%} ({low:.1%} to {high:.1%})"
        tqdm.write(f"{line}  {metrics.images_per_second:,.0f} images/s")

    def close(self) -> None:
        self.bar.close()
