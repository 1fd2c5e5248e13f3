"""The small networks of `zoo.nets` with their weights; tests/zoo/checkpoints/README.md has their scores."""

from __future__ import annotations

from typing import TypeVar

from safetensors.torch import load_file
from torch import nn

from zoo import nets
from zoo.cache import CHECKPOINTS

Network = TypeVar("Network", bound=nn.Module)
ALPHABET = 63  # distinct characters of `zoo.kjv`


def _trained(network: Network, name: str) -> Network:
    network.load_state_dict(load_file(CHECKPOINTS / f"{name}.safetensors"))
    return network.eval()


def lenet_300_100() -> nets.LeNet300100:
    """On `fashion_mnist`."""
    return _trained(nets.LeNet300100(), "lenet_300_100")


def lenet_5() -> nets.LeNet5:
    """On `fashion_mnist`."""
    return _trained(nets.LeNet5(), "lenet_5")


def resnet_8() -> nets.ResNet:
    """On `fashion_mnist`."""
    return _trained(nets.ResNet(1), "resnet_8")


def depthwise() -> nets.Depthwise:
    """On `fashion_mnist`."""
    return _trained(nets.Depthwise(), "depthwise")


def letters_mlp() -> nets.LettersMLP:
    """On `letters`."""
    return _trained(nets.LettersMLP(), "letters")


def character_gpt() -> nets.CharacterGPT:
    """On `characters`; its weights are rounded to float16."""
    return _trained(nets.CharacterGPT(ALPHABET), "character_gpt")
