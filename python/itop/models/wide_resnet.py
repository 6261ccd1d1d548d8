"""Wide residual networks."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from itop.models.initialisation import initialise
from itop.models.shapes import InputShape, check_image_size, check_input


@final
class WideBlock(nn.Module):
    """Normalise, ReLU, convolve, twice, with dropout between; added to the input or to a 1x1 projection of it."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        projects = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False) if projects else None

    def forward(self, features: Tensor) -> Tensor:
        """[batch, in_channels, h, w] to [batch, out_channels, h / stride, w / stride], rounded up."""
        activated = torch.relu(self.bn1(features))
        residual = self.dropout(torch.relu(self.bn2(self.conv1(activated))))
        # A projection sees the activated input, an identity the plain one: the paper's figure 1 (d).
        shortcut = features if self.shortcut is None else self.shortcut(activated)
        total: Tensor = self.conv2(residual) + shortcut
        return total


@final
class WideResNet(nn.Module):
    """WRN-``depth``-``width``: three stages of pre-activation blocks with 16, 32 and 64 times ``width`` channels.

    Args:
        depth: Layers along the path, 4 more than a multiple of 6.
        width: Factor of the stages' channels.
        num_classes: Outputs of the last layer.
        input_shape: (channels, height, width), at least 4 x 4 pixels.
        dropout: Probability inside a block; 0.3 in the reference code.

    Reference:
        Zagoruyko & Komodakis, Wide Residual Networks, BMVC 2016.
    """

    def __init__(
        self, depth: int, width: int, *, num_classes: int, input_shape: InputShape, dropout: float = 0.3
    ) -> None:
        super().__init__()
        check_input(input_shape, num_classes)
        if depth < 10 or (depth - 4) % 6 != 0:
            raise ValueError(f"depth must be 10, 16, 22, 28, ..., got {depth}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        check_image_size(f"wrn-{depth}-{width}", input_shape, smallest=4)
        blocks_per_stage = (depth - 4) // 6
        self.conv1 = nn.Conv2d(input_shape[0], 16, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        in_channels = 16
        for channels, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            blocks = []
            for block in range(blocks_per_stage):
                blocks.append(WideBlock(in_channels, channels, stride=stride if block == 0 else 1, dropout=dropout))
                in_channels = channels
            stages.append(nn.Sequential(*blocks))
        self.stage1, self.stage2, self.stage3 = stages
        self.bn = nn.BatchNorm2d(in_channels)
        self.fc = nn.Linear(in_channels, num_classes)
        initialise(self, classifier=self.fc)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, num_classes] of images [batch, channels, height, width]."""
        features = self.stage3(self.stage2(self.stage1(self.conv1(images))))
        pooled = torch.relu(self.bn(features)).mean(dim=(2, 3))
        logits: Tensor = self.fc(pooled)
        return logits
