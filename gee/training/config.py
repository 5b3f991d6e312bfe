"""The settings of a training run: what is trained, on what, and how."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from gee import data, models


@dataclass
class ModelConfig:
    """The network."""

    model: str = "digitsnet"
    """Name of the network; `python -m gee.models` lists them."""
    genes: int | None = 16
    """Number of genes g; None trains the dense twin, whose weights are parameters of their own."""
    time_steps: int = 4
    """Steps T for which an image is shown."""
    width: float = 1.0
    """Factor on all channel counts."""
    tail_channels: int | None = None
    """Channels of vgg16's last two populations (1024 in the paper's larger row); None: the model's own."""
    tau: float = 2.0
    """Membrane time constant, in steps."""
    v_threshold: float = 0.5
    """Firing threshold."""
    v_reset: float | None = 0.0
    """Voltage after a spike; None subtracts the threshold instead (soft reset)."""
    decay_input: bool = True
    """Whether the input current is divided by tau."""
    detach_reset: bool = True
    """Whether the gradient is cut at the reset."""
    surrogate: Literal["piecewise_quadratic", "atan", "sigmoid"] = "piecewise_quadratic"
    """Derivative of the spike in the backward pass."""
    alpha: float = 2.0
    """Sharpness of the surrogate."""
    conv_plan: str = "auto"
    """How genetic convolutions are computed: auto, materialize, reconstruct, gene or event (CPU)."""
    backend: Literal["fused", "reference"] = "fused"
    """Fused kernels, or plain PyTorch."""

    def create(self, *, num_classes: int, in_channels: int) -> models.SpikingNetwork:
        """The network, initialised with torch's global generator.

        Raises:
            ValueError: an unknown name or a value out of range.
        """
        options = asdict(self)
        name, options["plan"] = options.pop("model"), options.pop("conv_plan")
        if self.tail_channels is None:
            options.pop("tail_channels")
        return models.create_model(name, num_classes=num_classes, in_channels=in_channels, **options)


@dataclass
class DataConfig:
    """The data."""

    dataset: str = "digits"
    """digits (comes with scikit-learn), cifar10, cifar100 or imagenet."""
    data_dir: Path = Path("data")
    """Folder with the data set's files, as unpacked from the official archives; digits needs none."""
    image_size: int | None = None
    """Resize images to this many pixels a side; None: as they are."""
    train_images: int | None = None
    """Train on the first so many images only; None: on all."""
    test_images: int | None = None
    """Evaluate on the first so many held-out images only; None: on all."""

    def load(self) -> data.Dataset:
        """The data set.

        Raises:
            ValueError: an unknown name, a size out of range, or a part of images that are not in memory.
            gee.data.DataError: its files are missing or damaged.
        """
        for name in ("train_images", "test_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {value}")
        loaded = data.load(self.dataset, self.data_dir, image_size=self.image_size)
        if self.train_images is None and self.test_images is None:
            return loaded
        if not isinstance(loaded, data.InMemory):
            raise ValueError(f"train_images and test_images must be None for {loaded.name}, got a number")
        part = loaded.subset(self.train_images, self.test_images)
        if part.test_size < loaded.test_size:
            part.note = f"the first {part.test_size:,} of {loaded.test_size:,} images of {loaded.note}"
        return part


@dataclass
class TrainConfig:
    """The training."""

    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 64
    """Images per step, over all processes together."""
    lr: float = 2e-3
    """Peak learning rate of AdamW, reached after the warm-up; a cosine then leads to 0."""
    warmup_epochs: float = 5.0
    """Epochs of linear warm-up, at most a quarter of the run."""
    weight_decay: float = 0.01
    """Decoupled weight decay of weights and genes; norms and biases have none."""
    label_smoothing: float = 0.1
    """Probability mass that the loss spreads over all classes."""
    clip: float | None = 1.0
    """Largest norm of the gradient; None: no clipping."""
    amp: Literal["none", "bfloat16", "float16"] = "none"
    """Type of the activations under autocast."""
    compile: bool = False
    """Compile the network with torch.compile."""
    sync_batch_norm: bool = False
    """With torchrun: take batch statistics over the joint batch of all processes."""
    seed: int = 0
    """Of initialisation, order of the images and augmentation."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup_epochs", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be positive or None, got {self.clip}")
