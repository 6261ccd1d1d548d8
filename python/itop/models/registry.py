"""Networks by name.

Besides the names of ``MODELS``, two forms describe any MLP:

* ``mlp:512,512`` gives the hidden sizes; input and output follow from the data.
* ``mlp-3072-4000-1000-4000-10`` gives every size as papers write it; input and output must then fit the data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from math import prod
from types import MappingProxyType
from typing import Protocol

from torch import nn

from itop.models.alexnet import AlexNet
from itop.models.lenet import LeNet5
from itop.models.mlp import MLP
from itop.models.resnet import BasicBlock, Bottleneck, ResNet, Stem
from itop.models.shapes import InputShape, check_input
from itop.models.vgg import VGG, VGG_C, VGG_D, VGG_LIKE
from itop.models.wide_resnet import WideResNet
from itop.names import unknown_name


class ModelFactory(Protocol):
    """Builds a network for a data set, its weights drawn from torch's global generator."""

    def __call__(self, *, num_classes: int, input_shape: InputShape) -> nn.Module:
        """A network that maps images [batch, *input_shape] to logits [batch, num_classes]."""


_small_resnet = partial(ResNet, BasicBlock, stem=Stem.SMALL_IMAGES, classifier_bias=False)

MODELS: Mapping[str, ModelFactory] = MappingProxyType(
    {
        "mlp": partial(MLP, (1024, 512)),
        "lenet-300-100": partial(MLP, (300, 100)),
        "lenet-5": LeNet5,
        "alexnet-s": partial(AlexNet, 1024),
        "alexnet-b": partial(AlexNet, 2048),
        "vgg-c": partial(VGG, VGG_C),
        "vgg-d": partial(VGG, VGG_D),
        "vgg-like": partial(VGG, VGG_LIKE),
        "wrn-28-2": partial(WideResNet, 28, 2),
        "wrn-22-8": partial(WideResNet, 22, 8),
        "wrn-22-2": partial(WideResNet, 22, 2),
        "wrn-16-8": partial(WideResNet, 16, 8),
        "wrn-16-10": partial(WideResNet, 16, 10),
        "resnet18": partial(_small_resnet, (2, 2, 2, 2)),
        "resnet34": partial(_small_resnet, (3, 4, 6, 3)),
        "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3), stem=Stem.IMAGENET, classifier_bias=True),
    }
)
"""Every named network."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "vgg16": "vgg-c",
        "vgg-16": "vgg-c",
        "lenet5": "lenet-5",
        "lenet300": "lenet-300-100",
        "resnet-18": "resnet18",
        "resnet-34": "resnet34",
        "resnet-50": "resnet50",
    }
)
"""Other names of some of them."""

_HIDDEN_SIZES = re.compile(r"mlp:(\d+(?:,\d+)*)")
_ALL_SIZES = re.compile(r"mlp-(\d+(?:-\d+)+)")


def canonical_model_name(name: str) -> str:
    """The name without regard to case, underscores and aliases.

    Raises:
        ValueError: If no network has that name; the message has the nearest one.
    """
    key = name.strip().lower().replace("_", "-")
    key = ALIASES.get(key, key)
    if key in MODELS or _HIDDEN_SIZES.fullmatch(key) or _ALL_SIZES.fullmatch(key):
        return key
    if key.startswith("mlp:") or re.match(r"mlp-\d", key):
        raise ValueError(f"sizes of an MLP are written mlp:512,512 or mlp-784-512-10, got {name!r}")
    raise ValueError(unknown_name("model", name, MODELS, aliases=ALIASES))


def build_model(name: str, *, num_classes: int, input_shape: InputShape) -> nn.Module:
    """A named network for images of ``input_shape`` = (channels, height, width), weights from torch's global generator.

    Raises:
        ValueError: If the name is unknown, the images are too small for the network, or an MLP's sizes do not fit.
    """
    key = canonical_model_name(name)
    if match := _HIDDEN_SIZES.fullmatch(key):
        hidden_sizes = [int(size) for size in match[1].split(",")]
        return MLP(hidden_sizes, num_classes=num_classes, input_shape=input_shape)
    if match := _ALL_SIZES.fullmatch(key):
        check_input(input_shape, num_classes)
        first, *hidden_sizes, last = (int(size) for size in match[1].split("-"))
        if (first, last) != (prod(input_shape), num_classes):
            raise ValueError(
                f"{key} takes {first} inputs and {last} classes, the data has {prod(input_shape)} and {num_classes}; "
                f"mlp:{','.join(map(str, hidden_sizes))} would take them from the data"
            )
        return MLP(hidden_sizes, num_classes=num_classes, input_shape=input_shape)
    return MODELS[key](num_classes=num_classes, input_shape=input_shape)
