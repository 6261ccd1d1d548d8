"""Pictures as ``data:`` addresses: masks of a layer and images of input pixels, for pages that need nothing else."""

from __future__ import annotations

import base64
import struct
import zlib
from html import escape

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from itop.analysis.feature_importance import strength_image
from itop.analysis.packed_mask import PackedMask

__all__ = ["mask_picture", "picture", "strength_picture"]

_MAX_SIDE = 128


def picture(pixels: npt.NDArray[np.uint8], *, label: str, caption: str) -> str:
    """An HTML figure of an image [height, width] or [height, width, 3], drawn with sharp pixels.

    Args:
        pixels: Grey or colours; grey follows the page's scheme: 0 is the page's background.
        label: What it shows, for those who cannot see it.
        caption: Below it.
    """
    kind = "grey" if pixels.ndim == 2 else "colour"
    source = f"data:image/png;base64,{base64.b64encode(_png(pixels)).decode('ascii')}"
    return (
        f'<figure class="picture"><img class="{kind}" src="{source}" alt="{escape(label)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def mask_picture(mask: PackedMask, *, label: str, caption: str) -> str:
    """A layer's mask, outputs down and inputs to the right; of large layers each pixel is the density of a block.

    Densities are drawn relative to the densest block, so that a sparse layer is not a black square.
    """
    active = mask.unpack().flatten(1).float() if len(mask.shape) > 1 else mask.unpack()[None].float()
    size = min(active.shape[0], _MAX_SIDE), min(active.shape[1], _MAX_SIDE)
    blocks = F.adaptive_avg_pool2d(active[None], size)[0]
    largest = float(blocks.max()) or 1.0
    return picture((blocks / largest * 255).round().to(torch.uint8).numpy(), label=label, caption=caption)


def strength_picture(values: Tensor, shape: tuple[int, ...], *, label: str, caption: str) -> str:
    """Strength of the input pixels as an image; colour where the inputs have three channels.

    Stretched between the weakest and the strongest pixel, since what matters is where they differ.
    """
    image = strength_image(values, shape)
    low, high = float(image.min()), float(image.max())
    stretched = (image - low) / (high - low) if high > low else image
    return picture((stretched * 255).round().astype(np.uint8), label=label, caption=caption)


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """8-bit grey or RGB, every row unfiltered."""
    height, width = pixels.shape[:2]
    colour_type = 2 if pixels.ndim == 3 else 0
    rows = pixels.reshape(height, -1)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
