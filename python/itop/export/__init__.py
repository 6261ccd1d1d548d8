"""Trained sparse networks out of the door: dense, compressed by a bitmask, torch's CSR, ONNX.

Everything takes a model or its state dict and needs no engine: what is zero is left out, whoever made it zero.
"""

from itop.export.bitmask import compress, decompress, load_bitmask, save_bitmask, sparsity_config
from itop.export.csr import load_csr, save_csr, to_csr
from itop.export.dense import load_dense, save_dense
from itop.export.onnx import save_onnx
from itop.export.state import ExportReport

__all__ = [
    "ExportReport",
    "compress",
    "decompress",
    "load_bitmask",
    "load_csr",
    "load_dense",
    "save_bitmask",
    "save_csr",
    "save_dense",
    "save_onnx",
    "sparsity_config",
    "to_csr",
]
