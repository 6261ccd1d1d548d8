"""Initial weights: He et al. for what feeds a ReLU, unit gain for what produces the logits."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def initialise(model: nn.Module, *, classifier: nn.Linear) -> None:
    """Draws the weights of ``model`` from torch's global generator, in the order of ``model.modules()``.

    Convolutions and hidden linear layers: normal, variance ``2 / fan_in``, so that activations keep their size through
    ReLUs without normalisation. ``classifier``: normal, variance ``1 / fan_in``, as no ReLU follows. Biases 0,
    normalisation 1 and 0.

    Reference:
        He et al., Delving Deep into Rectifiers, ICCV 2015, section 2.2.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            fan_in = module.weight[0].numel()
            gain = 1.0 if module is classifier else 2.0
            nn.init.normal_(module.weight, std=math.sqrt(gain / fan_in))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
