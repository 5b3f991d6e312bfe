"""AdamW with the decay where it belongs, and a learning rate that is a function of the step."""

import math

import torch
from torch import nn

from gee.training.config import TrainConfig


def build_optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; weights, encodings X_p and the interaction G decay, norms and biases do not.

    Genes decay like weights: W is trilinear in them and a batch norm follows, so their scale does not change
    the network's function, and without decay it would grow and the effective learning rate fall
    (van Laarhoven, "L2 regularization versus batch and weight normalization", 2017).
    """
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of optimiser step `step`, counted from 0 over the whole run: linear warm-up, then a cosine."""
    total = config.epochs * steps_per_epoch
    warmup = int(min(config.warmup_epochs, config.epochs / 4) * steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
