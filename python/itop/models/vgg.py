"""VGG-16 for small images, with batch normalisation: VGG-C, VGG-D and VGG-like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from itop.models.initialisation import initialise
from itop.models.shapes import InputShape, check_input, flattened_size

_STAGE_CHANNELS = (64, 128, 256, 512, 512)


@final
@dataclass(frozen=True, slots=True)
class VGGPlan:
    """What the variants differ in.

    Args:
        name: The variant's name, for messages.
        last_kernel: Kernel of the third convolution of the three deep stages. A kernel of 1 keeps the padding of 1 that
            the others have, as the paper's code does: the map grows by 2 pixels there.
        num_hidden: Hidden linear layers of 512 neurons before the classifier.
        ceil_pooling: Whether pooling keeps a last odd row and column. It changes nothing on 32 x 32 images and lets
            smaller ones through; VGG-C must not (its odd maps would grow its first linear layer).
    """

    name: str
    last_kernel: int
    num_hidden: int
    ceil_pooling: bool


VGG_C = VGGPlan("vgg-c", last_kernel=1, num_hidden=2, ceil_pooling=False)
VGG_D = VGGPlan("vgg-d", last_kernel=3, num_hidden=2, ceil_pooling=True)
VGG_LIKE = VGGPlan("vgg-like", last_kernel=3, num_hidden=1, ceil_pooling=True)


@final
class VGG(nn.Module):
    """Thirteen convolutions in five stages, each batch-normalised, then linear layers of 512 neurons.

    Batch normalisation stands where the original has dropout. VGG-C has 11,307,712 weights on CIFAR-10; its first
    linear layer has 2048 inputs there.

    Reference:
        Simonyan & Zisserman, Very Deep Convolutional Networks, ICLR 2015, table 1; sizes of Lee et al., SNIP, ICLR
        2019.
    """

    def __init__(self, plan: VGGPlan, *, num_classes: int, input_shape: InputShape) -> None:
        super().__init__()
        check_input(input_shape, num_classes)
        layers: list[nn.Module] = []
        in_channels = input_shape[0]
        for stage, channels in enumerate(_STAGE_CHANNELS):
            for kernel_size in (3, 3) if stage < 2 else (3, 3, plan.last_kernel):
                # A bias before batch normalisation has no effect.
                layers.append(nn.Conv2d(in_channels, channels, kernel_size, padding=1, bias=False))
                layers += [nn.BatchNorm2d(channels), nn.ReLU()]
                in_channels = channels
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=plan.ceil_pooling))
        self.features = nn.Sequential(*layers)

        hidden: list[nn.Module] = []
        fan_in = flattened_size(plan.name, layers, input_shape)
        for _ in range(plan.num_hidden):
            hidden += [nn.Linear(fan_in, 512), nn.ReLU(), nn.BatchNorm1d(512)]
            fan_in = 512
        classifier = nn.Linear(fan_in, num_classes)
        self.classifier = nn.Sequential(*hidden, classifier)
        initialise(self, classifier=classifier)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, num_classes] of images [batch, channels, height, width]."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits
