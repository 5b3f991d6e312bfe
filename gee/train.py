"""`python -m gee.train`: train one network."""

import os
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

# Before torch is imported: threads that wait shall sleep. Spinning, they slow a busy machine tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from gee import config as configuration
from gee.data import DataError
from gee.models import SpikingNetwork
from gee.training import DataConfig, ModelConfig, NonFiniteLossError, TrainConfig, WeightsError, load_model
from gee.training.distributed import processes, rank
from gee.training.logs import TensorBoard
from gee.training.run import train


@dataclass
class Config:
    """Train a genetically encoded spiking network, or its dense twin.

    Examples:
        python -m gee.train
            a small network on scikit-learn's digits
        python -m gee.train --dataset cifar10 --data-dir data --model resnet19 --width 0.25 --genes 50
            a quarter of the channels of ResNet-19 on CIFAR-10
        python -m gee.train --genes None
            the dense twin
        python -m gee.train --resume runs/digits
            continue where an interrupted run stopped, bit for bit on the CPU
        torchrun --nproc-per-node 4 -m gee.train --dataset cifar10 --model resnet19
            the same training shared by four GPUs

    The run directory holds config.json, metrics.jsonl, the checkpoint, the best and the last weights.
    `python -m gee.evaluate RUN` measures what was trained.
    """

    run_dir: Path | None = None
    """Where the run's files go; None: a new folder runs/DATASET-MODEL-TIME."""
    resume: Path | None = None
    """Continue the run in this directory, with its settings."""
    init: Path | None = None
    """Begin with the weights of this file instead of random ones."""
    device: str = "auto"
    """cpu, cuda, or auto: the GPU where there is one."""
    tensorboard: TensorBoard = "auto"
    """Scalars for TensorBoard; auto: where it is installed (`pip install 'gee[tensorboard]'`)."""
    progress: bool = True
    """Print a line per epoch, and on a terminal a progress bar."""
    network: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainConfig = field(default_factory=TrainConfig)


def main(args: list[str] | None = None) -> None:
    """Parse the flags (None: `sys.argv`) and train; ends with a message where something is wrong."""
    prog = "python -m gee.train"
    config = configuration.parse(Config, args, prog=prog)
    if config.resume is not None:
        given = [*(sys.argv[1:] if args is None else args), "--config", str(config.resume / "config.json")]
        config = replace(configuration.parse(Config, given, prog=prog), run_dir=config.resume)
    try:
        run(config)
    except (DataError, NonFiniteLossError, WeightsError, ValueError, ModuleNotFoundError, OSError) as error:
        raise SystemExit(f"{prog}: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(f"{prog}: interrupted; continue with --resume and the run directory") from None


def run(config: Config) -> Path:
    """Train as `config` says.

    Returns:
        The run directory.

    Raises:
        FileExistsError: the run directory already holds a run.
        ValueError, gee.data.DataError, NonFiniteLossError, WeightsError: as the parts raise them.
    """
    with processes(config.device) as device:
        data = config.data.load()
        torch.manual_seed(config.training.seed)
        model = config.network.create(num_classes=len(data.classes), in_channels=data.shape[0])
        if config.init is not None:
            _begin_with(model, config.init)
        model.to(device)
        run_dir = config.run_dir or Path("runs") / _name(config)
        if rank() == 0:
            _prepare(run_dir, config)
            if config.progress:
                parameters = sum(parameter.numel() for parameter in model.parameters())
                print(f"{config.network.model}: {parameters / 1e6:.4f} M parameters; {run_dir}")
                print(f"{data.name}: {data.train_size:,} training images; evaluated on {data.note}")
        evaluation = train(
            model,
            data,
            config.training,
            model_config=config.network,
            run_dir=run_dir,
            resume=config.resume is not None,
            tensorboard=config.tensorboard,
            progress=config.progress,
        )
        if rank() == 0 and config.progress:
            low, high = evaluation.interval
            print(
                f"accuracy {evaluation.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}) "
                f"on {evaluation.count:,} images, {data.note}"
            )
            print(f"measure it with: python -m gee.evaluate {run_dir}")
    return run_dir


def _prepare(run_dir: Path, config: Config) -> None:
    """Make the run directory and save the settings in it."""
    if config.resume is None and (run_dir / "config.json").exists():
        raise FileExistsError(f"{run_dir} already holds a run; continue it with --resume, or name another")
    run_dir.mkdir(parents=True, exist_ok=True)
    if config.resume is None:
        configuration.save(replace(config, run_dir=None, resume=None), run_dir / "config.json")


def _begin_with(model: SpikingNetwork, path: Path) -> None:
    weights = load_model(path)[0].state_dict()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise WeightsError(f"--init {path} does not fit the network: {error}") from None


def _name(config: Config) -> str:
    return f"{config.data.dataset}-{config.network.model}-{time.strftime('%Y%m%d-%H%M%S')}"


if __name__ == "__main__":
    main()
