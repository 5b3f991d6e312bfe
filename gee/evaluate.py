"""`python -m gee.evaluate`: accuracy, spikes, energy and latency of a trained network."""

import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from gee import config as configuration
from gee import energy
from gee.data import DataError, Dataset
from gee.files import write_atomically
from gee.models import SpikingNetwork
from gee.training import DataConfig, WeightsError, evaluate, load_model

LATENCY_RUNS = 15


@dataclass
class Config:
    """Measure a trained network on held-out images: accuracy, spikes, energy and latency.

    Examples:
        python -m gee.evaluate runs/digits
            the best weights of a run, on the data that it was trained for
        python -m gee.evaluate runs/digits --noise 0.5
            with Gaussian noise of half the norm of each image
        python -m gee.evaluate best.safetensors --data-dir data --json result.json
            a file of weights on its own

    The interval of the accuracy is Wilson's at 95 %. Energy counts 4.6 pJ for a multiplication and 0.9 pJ for
    an accumulation (45 nm, float32). Latency is the median of repeated forward passes on this machine.
    """

    weights: tyro.conf.Positional[Path]
    """A run directory, or a file of weights."""
    which: Literal["best", "last"] = "best"
    """Which weights of a run directory."""
    data_dir: Path | None = None
    """Folder with the data set's files; None: where the run found it, or `data`."""
    batch_size: int = 256
    """Images per forward pass."""
    noise: float = 0.0
    """Norm of Gaussian noise added to each image, as a fraction of that image's norm (accuracy and loss)."""
    seed: int = 0
    """Of the noise."""
    energy_images: int = 256
    """Held-out images over which spikes and energy are averaged."""
    device: str = "auto"
    """cpu, cuda, or auto: the GPU where there is one."""
    backend: Literal["fused", "reference"] = "fused"
    """Fused kernels, or plain PyTorch."""
    json: Path | None = None
    """Also write the figures to this file."""


def main(args: list[str] | None = None) -> None:
    """Parse the flags (None: `sys.argv`) and print the figures; ends with a message if something is wrong."""
    prog = "python -m gee.evaluate"
    config = configuration.parse(Config, args, prog=prog)
    try:
        result = run(config)
        if config.json is not None:
            write_atomically(config.json, json.dumps(result, indent=2) + "\n")
    except (DataError, WeightsError, ValueError, OSError) as error:
        raise SystemExit(f"{prog}: {error}") from error
    print(describe(result))


def run(config: Config) -> dict[str, Any]:
    """Measure as `config` says.

    Returns:
        The figures, as `--json` writes them; energies in mJ per image, times in ms per batch.

    Raises:
        OSError, WeightsError: the weights cannot be read.
        ValueError, gee.data.DataError: the data cannot be read, or does not fit the weights.
    """
    path = config.weights / f"{config.which}.safetensors" if config.weights.is_dir() else config.weights
    model, about = load_model(path, backend=config.backend)
    data = _load_data(config, path, about)
    device = "cuda" if config.device == "auto" and torch.cuda.is_available() else config.device
    model.to("cpu" if device == "auto" else device).eval()
    batches = data.test_batches(config.batch_size, device=next(model.parameters()).device)
    evaluation = evaluate(model, batches, noise=config.noise, seed=config.seed)
    images = _first_images(data, config.energy_images, next(model.parameters()).device)
    report = energy.profile(model, images)
    batch = images[: config.batch_size]
    return {
        "weights": str(path),
        "model": about["model"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dataset": data.name,
        "held_out": data.note,
        "noise": config.noise,
        "images": evaluation.count,
        "accuracy": evaluation.accuracy,
        "accuracy_interval": list(evaluation.interval),
        "loss": evaluation.loss,
        "firing_rates": evaluation.firing_rates,
        "confusion": evaluation.confusion.tolist(),
        "energy_images": len(images),
        "spikes": report.spikes,
        "macs": report.macs,
        "acs": report.acs,
        "decode_macs": report.decode_macs,
        "energy_mj": report.energy_mj,
        "dense_energy_mj": report.dense_energy_mj,
        "device": _device_name(next(model.parameters()).device),
        "latency_ms": {str(len(part)): latency_ms(model, part) for part in (images[:1], batch)},
    }


def latency_ms(model: SpikingNetwork, images: Tensor) -> float:
    """Median time of a forward pass in evaluation mode, in ms, for the whole batch `images` [B, C, H, W]."""
    times = []
    with torch.inference_mode():
        for index in range(LATENCY_RUNS + 3):  # the first three warm up
            _synchronise(images.device)
            start = time.perf_counter()
            model(images)
            _synchronise(images.device)
            if index >= 3:
                times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def describe(result: dict[str, Any]) -> str:
    """The figures of `run` as text."""
    low, high = result["accuracy_interval"]
    noise = f" with noise of {result['noise']:.0%} of each image's norm" if result["noise"] else ""
    times = ", ".join(f"{ms:.2f} ms for {count}" for count, ms in result["latency_ms"].items())
    rates = "  ".join(f"{name} {rate:.3f}" for name, rate in result["firing_rates"].items())
    return f"""\
{result["model"]["model"]}, {result["parameters"] / 1e6:.4f} M parameters, {result["weights"]}
accuracy   {result["accuracy"]:.2%} (95 % interval {low:.2%} to {high:.2%}){noise}
           on {result["images"]:,} images of {result["dataset"]}: {result["held_out"]}
loss       {result["loss"]:.4f}
spikes     {result["spikes"]:,.0f} per image (mean of {result["energy_images"]})
energy     {result["energy_mj"]:.4g} mJ per image: {mega(result["macs"])} MAC, {mega(result["acs"])} AC
           ({result["dense_energy_mj"]:.4g} mJ for a conventional network on the same graph;
           decoding the genes takes {mega(result["decode_macs"])} MAC each time they are loaded)
latency    {times} images ({result["device"]})
firing     {rates}"""


def mega(count: float) -> str:
    return f"{count / 1e6:.3f} M"


def _load_data(config: Config, path: Path, about: dict[str, Any]) -> Dataset:
    """The data that the weights were trained for, checked against them."""
    missing = [key for key in ("dataset", "image_size", "classes") if key not in about]
    if missing:
        raise WeightsError(f"{path} does not name the data that it was trained for ({', '.join(missing)})")
    data_config = DataConfig(dataset=about["dataset"], image_size=about["image_size"])
    saved = path.parent / "config.json"
    if config.data_dir is not None:
        data_config = replace(data_config, data_dir=config.data_dir)
    elif saved.exists():
        values = json.loads(saved.read_text(encoding="utf-8")).get("data", {})
        data_config = replace(data_config, data_dir=Path(values.get("data_dir", data_config.data_dir)))
    data = data_config.load()
    if list(data.classes) != about["classes"]:
        raise ValueError(f"{data.name} must have the classes that {path} was trained for")
    return data


def _first_images(data: Dataset, count: int, device: torch.device) -> Tensor:
    return next(iter(data.test_batches(count, device=device))).images


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
