"""Genetically encoded spiking networks and their dense twins."""

from gee.models import convnet, resnet  # noqa: F401  (they register their models)
from gee.models.initialisation import Genotype, TruncatedNormal, initialise
from gee.models.network import SpikingNetwork
from gee.models.registry import create_model, describe_model, list_models, register

__all__ = [
    "Genotype",
    "SpikingNetwork",
    "TruncatedNormal",
    "create_model",
    "describe_model",
    "initialise",
    "list_models",
    "register",
]
