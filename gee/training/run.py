"""A training run that leaves a directory behind and survives being killed at any moment.

config.json               every setting (written by the command line)
metrics.jsonl             one line per epoch
checkpoint.safetensors    what the next epoch depends on
best.safetensors          weights with the highest held-out accuracy, with the model's configuration
last.safetensors          weights after the last epoch
tensorboard/
"""

from pathlib import Path
from typing import Any

from gee.config import to_dict
from gee.data import Dataset
from gee.models import SpikingNetwork
from gee.training import distributed
from gee.training.config import ModelConfig, TrainConfig
from gee.training.evaluation import Evaluation
from gee.training.logs import MetricsLog, Progress, TensorBoard
from gee.training.trainer import Trainer
from gee.training.weights import WeightsError, read_tensors, save_weights, write_tensors

CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_FORMAT = "gee checkpoint 1"
FREE = ("compile", "backend", "conv_plan")  # settings that a resumed run may change


def train(
    model: SpikingNetwork,
    data: Dataset,
    config: TrainConfig,
    *,
    model_config: ModelConfig,
    run_dir: str | Path,
    resume: bool = False,
    tensorboard: TensorBoard = "auto",
    progress: bool = True,
) -> Evaluation:
    """Train `model` to the end, with checkpoints and logs in `run_dir`.

    Args:
        model: on the device on which it is to be trained; ends with the weights of the last epoch.
        data: the data set.
        config: how to train.
        model_config: what built the model; it goes into the files of weights.
        run_dir: made if absent. With several processes the first one writes.
        resume: continue from the checkpoint in `run_dir`, bit for bit on the CPU; from the beginning where
            the run was stopped before its first epoch ended.
        tensorboard: `"auto"`: where it is installed.
        progress: print a line per epoch and, on a terminal, a bar.

    Returns:
        The evaluation after the last epoch.

    Raises:
        NonFiniteLossError: the loss became infinite or not a number.
        WeightsError: the checkpoint is damaged or of other settings.
    """
    run_dir = Path(run_dir)
    writes = distributed.rank() == 0
    if writes:
        run_dir.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(model, data, config)
    about_data = {"name": data.name, "shape": list(data.shape), "images": data.train_size}
    settings = {"network": to_dict(model_config), "training": to_dict(config), "data": about_data}
    best = -1.0
    if resume and (run_dir / CHECKPOINT).exists():
        best = _load_checkpoint(run_dir / CHECKPOINT, trainer, settings)
    log = MetricsLog(run_dir, trainer.epoch, tensorboard) if writes else None
    bar = Progress(config, trainer.steps_per_epoch, trainer.epoch, progress)
    trainer.on_batch = bar.step
    evaluation = None
    try:
        for metrics in trainer.epochs():
            evaluation = metrics.evaluation
            assert evaluation is not None
            bar.epoch(metrics)
            if log is None:
                continue
            log.write(metrics)
            about = {
                "dataset": data.name,
                "image_size": data.shape[-1],
                "classes": list(data.classes),
                "note": data.note,
                "epoch": trainer.epoch,
                "test_accuracy": evaluation.accuracy,
            }
            if evaluation.accuracy > best:
                best = evaluation.accuracy
                save_weights(run_dir / "best.safetensors", model, model_config, about)
            save_weights(run_dir / "last.safetensors", model, model_config, about)
            _save_checkpoint(run_dir / CHECKPOINT, trainer, settings, best)
    finally:
        bar.close()
        if log is not None:
            log.close()
    return trainer.evaluate() if evaluation is None else evaluation  # None: the run had ended before


def _save_checkpoint(path: Path, trainer: Trainer, settings: dict[str, Any], best: float) -> None:
    tensors, values = trainer.state()
    about = {"format": CHECKPOINT_FORMAT, "settings": settings, "best": best, **values}
    write_tensors(path, tensors, about)


def _load_checkpoint(path: Path, trainer: Trainer, settings: dict[str, Any]) -> float:
    """Bring the trainer to the checkpoint's state; the best held-out accuracy so far."""
    try:
        tensors, values = read_tensors(path, CHECKPOINT_FORMAT)
    except WeightsError as error:
        raise WeightsError(
            f"{error}; this run cannot be continued: start it again in another directory, or, to keep what "
            "it learned, from its weights with --init"
        ) from None
    changed = _differences(values["settings"], settings)
    if changed:
        raise WeightsError(f"{path} was made with other settings: {'; '.join(changed)}")
    trainer.load_state(tensors, values)
    return values["best"]


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in {**old, **new} if key not in FREE]
        return [line for key in keys for line in _differences(old.get(key), new.get(key), f"{name}.{key}")]
    return [] if old == new else [f"{name.lstrip('.')} was {old!r}, is {new!r}"]
