"""Residual networks for small images and for ImageNet.

Modules carry torchvision's names, so that weights of its ResNet-50 load here and the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import ClassVar, TypeAlias, final

import torch
from torch import Tensor, nn

from itop.models.initialisation import initialise
from itop.models.shapes import InputShape, check_image_size, check_input


@final
class Stem(Enum):
    """What precedes the first stage."""

    SMALL_IMAGES = "small images"
    """A 3x3 convolution that keeps the size, no pooling: images from 8 x 8 pixels."""
    IMAGENET = "imagenet"
    """A 7x7 convolution and a max-pooling, both of stride 2: images from 32 x 32 pixels."""


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


@final
class BasicBlock(nn.Module):
    """Two 3x3 convolutions around an identity or projected shortcut."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _projection(in_channels, channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        """[batch, in_channels, h, w] to [batch, channels, h / stride, w / stride], rounded up."""
        residual = torch.relu(self.bn1(self.conv1(features)))
        residual = self.bn2(self.conv2(residual))
        shortcut = features if self.downsample is None else self.downsample(features)
        return torch.relu(residual + shortcut)


@final
class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; the stride is in the 3x3 one, which makes the network "v1.5"."""

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.downsample = _projection(in_channels, channels * self.expansion, stride)

    def forward(self, features: Tensor) -> Tensor:
        """[batch, in_channels, h, w] to [batch, 4 channels, h / stride, w / stride], rounded up."""
        residual = torch.relu(self.bn1(self.conv1(features)))
        residual = torch.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        shortcut = features if self.downsample is None else self.downsample(features)
        return torch.relu(residual + shortcut)


Block: TypeAlias = type[BasicBlock] | type[Bottleneck]


@final
class ResNet(nn.Module):
    """Four stages of 64, 128, 256 and 512 channels; all but the first halve the image.

    Args:
        block: What a stage repeats.
        blocks_per_stage: How often, four counts.
        stem: What precedes the stages.
        classifier_bias: Whether the last layer has one; the paper's ResNet-34 has none.
        num_classes: Outputs of the last layer.
        input_shape: (channels, height, width).

    Reference:
        He et al., Deep Residual Learning for Image Recognition, CVPR 2016, table 1.
    """

    def __init__(
        self,
        block: Block,
        blocks_per_stage: Sequence[int],
        *,
        stem: Stem,
        classifier_bias: bool,
        num_classes: int,
        input_shape: InputShape,
    ) -> None:
        super().__init__()
        check_input(input_shape, num_classes)
        if len(blocks_per_stage) != 4 or any(count < 1 for count in blocks_per_stage):
            raise ValueError(f"blocks_per_stage must be four counts of at least 1, got {tuple(blocks_per_stage)}")
        if stem is Stem.IMAGENET:
            check_image_size("resnet with ImageNet's stem", input_shape, smallest=32)
            self.conv1 = nn.Conv2d(input_shape[0], 64, 7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        else:
            check_image_size("resnet", input_shape, smallest=8)
            self.conv1 = nn.Conv2d(input_shape[0], 64, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(64)

        stages: list[nn.Module] = []
        in_channels = 64
        for channels, stride, num_blocks in zip((64, 128, 256, 512), (1, 2, 2, 2), blocks_per_stage, strict=True):
            blocks: list[nn.Module] = []
            for position in range(num_blocks):
                blocks.append(block(in_channels, channels, stride if position == 0 else 1))
                in_channels = channels * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(in_channels, num_classes, bias=classifier_bias)
        initialise(self, classifier=self.fc)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, num_classes] of images [batch, channels, height, width]."""
        features = self.maxpool(torch.relu(self.bn1(self.conv1(images))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits
