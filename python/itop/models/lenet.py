"""LeNet-5 as Caffe and the pruning literature have it."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from itop.models.initialisation import initialise
from itop.models.shapes import InputShape, check_input, flattened_size


@final
class LeNet5(nn.Module):
    """Two unpadded 5x5 convolutions (20 and 50 channels), each with ReLU and 2x2 max-pooling, then 500 neurons.

    430,500 weights on 1 x 28 x 28 images with 10 classes. Images need at least 16 x 16 pixels.

    Reference:
        LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998; sizes of Caffe's example.
    """

    def __init__(self, *, num_classes: int, input_shape: InputShape) -> None:
        super().__init__()
        check_input(input_shape, num_classes)
        self.conv1 = nn.Conv2d(input_shape[0], 20, kernel_size=5)
        self.conv2 = nn.Conv2d(20, 50, kernel_size=5)
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        layers = (self.conv1, self.pool, self.conv2, self.pool)
        self.fc1 = nn.Linear(flattened_size("lenet-5", layers, input_shape), 500)
        self.fc2 = nn.Linear(500, num_classes)
        initialise(self, classifier=self.fc2)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, num_classes] of images [batch, channels, height, width]."""
        features = self.pool(torch.relu(self.conv1(images)))
        features = self.pool(torch.relu(self.conv2(features)))
        logits: Tensor = self.fc2(torch.relu(self.fc1(features.flatten(1))))
        return logits
