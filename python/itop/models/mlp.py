"""Multilayer perceptrons with ReLU and without normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import final

import torch
from torch import Tensor, nn

from itop.models.initialisation import initialise
from itop.models.shapes import InputShape, check_input


@final
class MLP(nn.Module):
    """Linear layers ``fc1``, ``fc2``, ... with ReLUs between, over flattened images.

    Args:
        hidden_sizes: Neurons of each hidden layer; empty for a linear classifier.
        num_classes: Outputs of the last layer.
        input_shape: (channels, height, width); the input is its product.

    The paper's MLP is ``hidden_sizes=(1024, 512)`` on CIFAR-10; LeNet-300-100 is ``(300, 100)`` on MNIST.
    """

    def __init__(self, hidden_sizes: Sequence[int], *, num_classes: int, input_shape: InputShape) -> None:
        super().__init__()
        check_input(input_shape, num_classes)
        if any(size < 1 for size in hidden_sizes):
            raise ValueError(f"hidden_sizes must be at least 1 each, got {tuple(hidden_sizes)}")
        sizes = (prod(input_shape), *hidden_sizes, num_classes)
        layers = [nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes)]
        for position, layer in enumerate(layers, start=1):
            self.add_module(f"fc{position}", layer)
        initialise(self, classifier=layers[-1])

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, num_classes] of images [batch, ...]."""
        *hidden, classifier = self.children()
        activations = images.flatten(1)
        for layer in hidden:
            activations = torch.relu(layer(activations))
        logits: Tensor = classifier(activations)
        return logits
