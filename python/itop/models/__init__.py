"""The networks of the paper and of its reference code, adapted to any image shape and number of classes.

Sparsifiable weights (linear and convolution weights) of the paper's four networks, on the paper's data:
``mlp`` 3,675,136; ``vgg-c`` 11,307,712; ``resnet34`` 21,311,168; ``resnet50`` 25,502,912.
"""

from itop.models.alexnet import AlexNet
from itop.models.lenet import LeNet5
from itop.models.mlp import MLP
from itop.models.registry import ALIASES, MODELS, ModelFactory, build_model, canonical_model_name
from itop.models.resnet import BasicBlock, Bottleneck, ResNet, Stem
from itop.models.vgg import VGG, VGGPlan
from itop.models.wide_resnet import WideResNet

__all__ = [
    "ALIASES",
    "MLP",
    "MODELS",
    "VGG",
    "AlexNet",
    "BasicBlock",
    "Bottleneck",
    "LeNet5",
    "ModelFactory",
    "ResNet",
    "Stem",
    "VGGPlan",
    "WideResNet",
    "build_model",
    "canonical_model_name",
]
