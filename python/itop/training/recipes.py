"""Named run configurations: the paper's set-ups and small ones that run anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from itop.training.config import JsonValue, RunConfig

__all__ = ["DEFAULT_RECIPE", "RECIPES", "Recipe"]


@final
@dataclass(frozen=True, slots=True)
class Recipe:
    """A run configuration with what belongs around it.

    Args:
        description: One line for people.
        config: The configuration; its method is the first of `methods`.
        methods: What is compared when nobody says otherwise.
        num_seeds: Runs of each method, with seeds ``config.seed``, ``config.seed + 1``, ...
        options: Method options, given to those methods that know them.
    """

    description: str
    config: RunConfig
    methods: tuple[str, ...]
    num_seeds: int = 1
    options: Mapping[str, JsonValue] = field(default_factory=dict)


DEFAULT_RECIPE = "digits"

RECIPES: dict[str, Recipe] = {
    "digits": Recipe(
        "A small MLP on scikit-learn's handwritten digits: no download, seconds a run",
        RunConfig(
            recipe="digits",
            model="mlp:100,100",
            data="digits",
            validation_fraction=0.15,
            augment=False,
            epochs=50,
            batch_size=32,
            learning_rate=0.05,
            weight_decay=5e-4,
            threads=1,
        ),
        methods=("dense", "static", "set-itop"),
        num_seeds=3,
        options={"update_every": 50},
    ),
    "lenet-fashion-mnist": Recipe(
        "LeNet-300-100 on Fashion-MNIST",
        RunConfig(
            recipe="lenet-fashion-mnist",
            model="lenet-300-100",
            data="fashion-mnist",
            augment=False,
            epochs=30,
            batch_size=128,
            learning_rate=0.05,
        ),
        methods=("set-itop",),
        options={"update_every": 200},
    ),
    "million-neurons": Recipe(
        "An MLP of 1,050,000 hidden neurons on Fashion-MNIST by SET, truly sparse: its dense form is 0.9 terabytes",
        RunConfig(
            recipe="million-neurons",
            method="set",
            model="mlp:350000,350000,350000",
            data="fashion-mnist",
            execution="sparse",
            sparsity=0.99984,
            augment=False,
            validation_fraction=0.0,
            epochs=1,
            batch_size=32,
            learning_rate=0.2,
            lr_fan_in=40.0,  # of a hidden neuron; an output sums over 350,000
            weight_decay=0.0,
            lr_schedule="cosine",
            warmup_epochs=0.02,
            checkpoint_seconds=300.0,
        ),
        methods=("set",),
        options={"update_every": 100},
    ),
    "mlp-cifar10": Recipe(
        "The paper's MLP 3072-1024-512-10 on CIFAR-10, 200 epochs",
        # The paper leaves the MLP's rate and epochs open: these are the habits of its code.
        RunConfig(recipe="mlp-cifar10", model="mlp", data="cifar10", epochs=200, learning_rate=0.01),
        methods=("set-itop",),
    ),
    "vgg16-cifar10": Recipe(
        "The paper's VGG-16 on CIFAR-10, 250 epochs",
        RunConfig(recipe="vgg16-cifar10", model="vgg-c", data="cifar10", epochs=250),
        methods=("set-itop",),
    ),
    "resnet34-cifar100": Recipe(
        "The paper's ResNet-34 on CIFAR-100, 200 epochs",
        RunConfig(recipe="resnet34-cifar100", model="resnet34", data="cifar100", epochs=200),
        methods=("set-itop",),
    ),
    "resnet50-imagenet": Recipe(
        "The paper's ResNet-50 on ImageNet, 100 epochs",
        RunConfig(
            recipe="resnet50-imagenet",
            method="rigl-itop",
            model="resnet50",
            data="imagenet",
            # ImageNet's own validation images are what everybody reports on: they are the test set here.
            validation_fraction=0.02,
            epochs=100,
            batch_size=128,
            nesterov=False,
            weight_decay=1e-4,
            decay_vectors=False,
            label_smoothing=0.1,
            lr_milestones=(0.3, 0.6, 0.9),
            warmup_epochs=5,
            workers=8,
        ),
        methods=("rigl-itop",),
    ),
}
"""The paper's set-ups are those of its section on experiments; every field can be overridden."""
