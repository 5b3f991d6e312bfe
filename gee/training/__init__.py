"""Training, evaluation, and files of weights."""

from gee.training.config import DataConfig, ModelConfig, TrainConfig
from gee.training.evaluation import Evaluation, add_noise, evaluate
from gee.training.trainer import EpochMetrics, NonFiniteLossError, Trainer, TrainingStep
from gee.training.weights import WeightsError, load_model, save_weights

__all__ = [
    "DataConfig",
    "EpochMetrics",
    "Evaluation",
    "ModelConfig",
    "NonFiniteLossError",
    "TrainConfig",
    "Trainer",
    "TrainingStep",
    "WeightsError",
    "add_noise",
    "evaluate",
    "load_model",
    "save_weights",
]
