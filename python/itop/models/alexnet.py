"""AlexNet for small images, with batch normalisation and strides in place of pooling."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from itop.models.initialisation import initialise
from itop.models.shapes import InputShape, check_input, flattened_size

_CONVOLUTIONS = ((96, 11, 2), (256, 5, 2), (384, 3, 1), (384, 3, 1), (256, 3, 1))
"""Output channels, kernel and padding; every stride is 2."""


@final
class AlexNet(nn.Module):
    """Five convolutions of stride 2 and three linear layers, batch-normalised.

    Args:
        hidden_size: Neurons of the two hidden linear layers: 1024 in AlexNet-s, 2048 in AlexNet-b.
        num_classes: Outputs of the last layer.
        input_shape: (channels, height, width), at least 7 x 7 pixels.

    Reference:
        Lee et al., SNIP, ICLR 2019, section 5.
    """

    def __init__(self, hidden_size: int, *, num_classes: int, input_shape: InputShape) -> None:
        super().__init__()
        check_input(input_shape, num_classes)
        layers: list[nn.Module] = []
        in_channels = input_shape[0]
        for out_channels, kernel_size, padding in _CONVOLUTIONS:
            # A bias before batch normalisation has no effect.
            layers.append(nn.Conv2d(in_channels, out_channels, kernel_size, stride=2, padding=padding, bias=False))
            layers += [nn.BatchNorm2d(out_channels), nn.ReLU()]
            in_channels = out_channels
        classifier = nn.Linear(hidden_size, num_classes)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(flattened_size("alexnet", layers, input_shape), hidden_size, bias=False),
            nn.BatchNorm1d(hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, hidden_size, bias=False),
            nn.BatchNorm1d(hidden_size),
            nn.ReLU(),
            classifier,
        )
        initialise(self, classifier=classifier)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, num_classes] of images [batch, channels, height, width]."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits
