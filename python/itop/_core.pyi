"""The native core: bit sets, exact selection, topology updates, truly sparse products.

Tensors are borrowed for a call. Integers called after an array are its address (``data_ptr()``): the caller has checked
type, shape and contiguity, and keeps the tensor alive.
"""

from collections.abc import Callable, Sequence
from enum import Enum

import numpy as np
import numpy.typing as npt
from torch import Tensor

class BackendUnavailableError(RuntimeError):
    """A tensor is on a device for which there is no backend; says what is missing."""

class CudaError(RuntimeError):
    """A call of the CUDA runtime failed."""

class NonFiniteError(ValueError):
    """Scores that hold NaN or infinity; names the layer where there is one."""

def build_info() -> dict[str, object]:
    """Version, compiler, whether CUDA was compiled in, architectures, devices, threads, instruction set."""

def num_threads() -> int:
    """Threads that the core works with."""

def set_num_threads(num_threads: int) -> None: ...
def share_threads_with(library: str) -> bool:
    """Has jobs run on the OpenMP team of a loaded library (torch's), by its path; False where it has none that fits."""

def allocate(numel: Sequence[int], relative_density: Sequence[float], total: int) -> list[int]:
    """Active weights of each layer by relative densities: exactly ``total`` in all, none above its size."""

def tie_key(seed: int, layer: int, update: int, draw: int, index: int) -> int:
    """64 random bits of a weight, by which equal scores are ordered: smaller is better."""

class BitSets:
    """A bit for every weight of every layer of a store. Operations run on ``stream`` (0: the CPU) and make new sets."""

    def intersection(self, other: BitSets, stream: int) -> BitSets: ...
    def complement(self, stream: int) -> BitSets: ...
    def union(self, other: BitSets, stream: int) -> BitSets: ...
    def difference(self, other: BitSets, stream: int) -> BitSets: ...
    def symmetric_difference(self, other: BitSets, stream: int) -> BitSets: ...
    def copy(self, stream: int) -> BitSets: ...
    def count(self, stream: int) -> list[int]:
        """Members in each layer; raises NonFiniteError if a selection behind the set had scores without an order."""

    def num_bytes(self) -> int: ...
    def words(self, layer: int, stream: int) -> npt.NDArray[np.uint64]:
        """A layer's bits, 64 a word; a copy."""

    def set_words(self, layer: int, words: npt.NDArray[np.uint64], stream: int) -> None: ...
    def unpack(self, layer: int, target: Tensor, stream: int) -> None:
        """Writes a bool tensor in the order of storage."""

    def pack(self, layer: int, source: Tensor, stream: int) -> None:
        """Takes over a bool tensor in the order of storage."""

class MaskStore:
    """The active, explored and reliable weights of a model's layers, on one device.

    Layers are given as (name, offset, sizes, strides): the index map of :func:`itop.layers.index_map`.
    """

    def __init__(
        self,
        layers: Sequence[tuple[str, int, Sequence[int], Sequence[int]]],
        device_type: str,
        device_index: int,
        seed: int,
        stream: int,
    ) -> None: ...
    @property
    def seed(self) -> int: ...
    @property
    def active(self) -> BitSets: ...
    @property
    def explored(self) -> BitSets: ...
    @property
    def reliable(self) -> BitSets: ...
    def num_bytes(self) -> int: ...
    def empty(self, stream: int) -> BitSets: ...
    def full(self, stream: int) -> BitSets: ...
    def select(
        self,
        candidates: BitSets,
        scores: Sequence[Tensor | None],
        *,
        magnitude: bool,
        largest: bool,
        k: Sequence[int],
        across_layers: bool,
        update: int,
        draw: int,
        reduction: Callable[[npt.NDArray[np.int64]], None] | None,
        stream: int,
    ) -> BitSets:
        """The ``k`` best candidates by score, equal ones by tie key, then by index; without scores at random."""

    def commit(
        self,
        dropped: BitSets,
        grown: BitSets,
        tensors: Sequence[Sequence[Tensor]],
        *,
        zero_all_inactive: bool,
        regrown_keeps_value: bool,
        marks_reliable: bool,
        stream: int,
    ) -> npt.NDArray[np.int64]:
        """active <- (active - dropped) | grown, explored and reliable grow, changed weights become zero in the tensors.

        Returns:
            int64 ``[layers, 6]``: active, explored, reliable, dropped, grown, regrown.
        """

    def apply(self, tensors: Sequence[Sequence[Tensor]], stream: int) -> None:
        """Zeroes the tensors of each layer outside its active set."""

def select_in_groups(
    candidates: BitSets,
    scores: Sequence[Tensor],
    *,
    magnitude: bool,
    largest: bool,
    num_rows: Sequence[int],
    sizes: Sequence[int],
    targets: Sequence[npt.NDArray[np.int32]],
    present: BitSets | None,
) -> BitSets:
    """The best of each group of consecutive weights of a row: as many as ``targets``, less those ``present`` already."""

def count_in_rows(set: BitSets, layer: int, num_rows: int) -> npt.NDArray[np.int64]:
    """Members of each row of a layer as a matrix of so many rows."""

def block_sums(
    values: Tensor, shape: tuple[int, int], block: tuple[int, int], *, magnitude: bool, sums: Tensor
) -> None:
    """Writes the sum of the values, or of their magnitudes, of each block of a matrix."""

def blocks_with_any(
    weights: BitSets, blocks: BitSets, layer: int, shape: tuple[int, int], block: tuple[int, int]
) -> None:
    """Writes the blocks of which any weight is in the set."""

def weights_of_blocks(
    blocks: BitSets, weights: BitSets, layer: int, shape: tuple[int, int], block: tuple[int, int]
) -> None:
    """Writes the weights of the blocks in the set."""

def compare_with(values: Tensor, bits: BitSets, layer: int, *, magnitude: bool, greater: bool, limit: float) -> None:
    """Writes the weights at which a value (or its magnitude) is smaller than a limit, or greater."""

def sum_magnitudes(set: BitSets, layer: int, values: Tensor) -> npt.NDArray[np.int64]:
    """Of a set of weights the sums of mantissas of magnitudes, by exponent: exact, whatever the order."""

def smallest_magnitude(set: BitSets, layer: int, values: Tensor) -> float:
    """Of a set of weights; infinity where it is empty."""

def exploration_scores(
    active: BitSets,
    layer: int,
    gradients: Tensor,
    *,
    bonus: float,
    epsilon: float,
    counts: npt.NDArray[np.int16],
    scores: Tensor,
) -> None:
    """Adds 1 to the counts of active weights, then writes ``abs(gradient) + bonus / (count + epsilon)``."""

def sgd_step(
    store: MaskStore | None,
    rows: Sequence[tuple[int, Tensor, Tensor, Tensor | None, None, bool, float]],
    *,
    learning_rate: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """torch.optim.SGD's step, to its bits, in which only active weights take part.

    Rows are (layer or -1, weight, gradient, momentum buffer or None, None, whether the buffer is new, unused).
    """

def adam_step(
    store: MaskStore | None,
    rows: Sequence[tuple[int, Tensor, Tensor, Tensor, Tensor, bool, float]],
    *,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    decoupled_weight_decay: bool,
    maximize: bool,
) -> None:
    """The step of torch.optim's Adam and AdamW, in which only active weights take part.

    Rows are (layer or -1, weight, gradient, first moment, second moment, unused, steps with the present one).
    """

class ValueType(Enum):
    FLOAT32 = ...
    FLOAT64 = ...
    BFLOAT16 = ...

class PlaneLayout(Enum):
    """How a convolution lays out its padded planes."""

    POSITIONS = ...
    INTERLEAVED = ...

class SparsePattern:
    """Borrows its arrays, given by address."""

    def __init__(
        self, num_rows: int, num_columns: int, block_width: int, block_starts: int, columns: int, permutation: int = 0
    ) -> None: ...
    @property
    def num_entries(self) -> int: ...

class DeviceSparseRows:
    """Borrows its arrays in a GPU's memory, given by address."""

    def __init__(
        self, num_rows: int, num_entries: int, row_pointers: int, columns: int, permutation: int = 0
    ) -> None: ...

class ConvolutionShape:
    """Of channels, images and kernel; what follows from them."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        in_height: int,
        in_width: int,
        kernel_height: int,
        kernel_width: int,
        stride_height: int,
        stride_width: int,
        padding_height: int,
        padding_width: int,
        dilation_height: int,
        dilation_width: int,
    ) -> None: ...
    @property
    def out_height(self) -> int: ...
    @property
    def out_width(self) -> int: ...
    @property
    def num_columns(self) -> int: ...
    @property
    def num_planes(self) -> int: ...

class ConvolutionPattern:
    """A pattern in the layout that its planes have, forward and transposed."""

    def __init__(
        self, shape: ConvolutionShape, layout: PlaneLayout, forward: SparsePattern, transposed: SparsePattern
    ) -> None: ...

class PositionList:
    """Borrows its arrays, given by address."""

    def __init__(self, num_rows: int, num_columns: int, row_pointers: int, columns: int) -> None: ...

class StreamedGrowth:
    """The ``k`` free positions with the best scores, from scores that pass by a few rows at a time."""

    def __init__(
        self, taken: PositionList, k: int, seed: int, layer: int, update: int, draw: int, at_least: float
    ) -> None: ...
    def offer(self, first_row: int, num_rows: int, scores: int, type: str) -> None:
        """Rows ``[first_row, first_row + num_rows)`` of the scores, contiguous."""

    def offer_product(self, passes: list[tuple[int, int, int]], type: str) -> None:
        """All rows of a sum of products ``gradient^T x``, given as addresses and depth of each."""

    def finish(self) -> npt.NDArray[np.int64]:
        """The chosen positions, ascending; fewer than ``k`` if ``at_least`` was too high."""

def grow_uniformly(
    taken: PositionList, k: int, seed: int, layer: int, update: int, draw: int, max_streamed: int
) -> npt.NDArray[np.int64]:
    """Exactly ``k`` free positions, uniformly at random, ascending; by tie keys in matrices of up to ``max_streamed``."""

def sparse_select_entries(
    pattern: PositionList,
    values: int,
    type: str,
    magnitude: bool,
    largest: bool,
    k: int,
    seed: int,
    layer: int,
    update: int,
    draw: int,
    is_chosen: int,
) -> None:
    """Writes which ``k`` entries of a pattern are the best by score, equal ones by tie key."""

class SetOperation(Enum):
    UNION = ...
    INTERSECTION = ...
    DIFFERENCE = ...

def combine_positions(
    a: PositionList, b: PositionList, operation: SetOperation
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Row pointers and columns of a union, intersection or difference."""

def filter_positions(all: PositionList, is_member: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Row pointers and columns of the entries whose ``is_member`` (bytes) is not 0."""

def find_members(all: PositionList, set: PositionList, is_member: int) -> None:
    """Writes to ``is_member`` (bytes) which entries of ``all`` are in a set."""

def positions_of(
    num_rows: int, num_columns: int, indices: int, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Row pointers and columns of ascending indices, row * columns + column."""

class CompressedSet:
    """A set over [0, numel) that grows, in memory of its members."""

    def __init__(self, numel: int) -> None: ...
    @property
    def count(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    def insert(self, positions: PositionList) -> int:
        """Adds positions; returns how many were new."""

    def contains_all(self, positions: PositionList) -> bool: ...
    def to_positions(self, num_columns: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]: ...
    def to_bytes(self) -> npt.NDArray[np.uint8]: ...
    @staticmethod
    def from_bytes(numel: int, bytes: int, num_bytes: int) -> CompressedSet: ...

def sparse_carry_values(source: int, sources: int, count: int, element_size: int, target: int) -> None:
    """``target[i] = source[sources[i]]``, zero where the source is negative."""

def sparse_update_pattern(
    pattern: PositionList, keep: int, grown: int, num_grown: int, regrown_keeps_value: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32], int]:
    """Row pointers and columns after an update, the old entry of each (-1: grown), and how many were regrown."""

def lend_bytes(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Bytes for a result, from memory that earlier results have left; they return to it with the array."""

def sparse_check_pattern(num_rows: int, num_columns: int, num_entries: int, row_pointers: int, columns: int) -> None:
    """Raises a ValueError unless row pointers and columns are those of a pattern."""

def sparse_block_starts(
    num_rows: int, num_columns: int, row_pointers: int, columns: int, block_width: int, block_starts: int
) -> None:
    """Writes where the entries of each row begin in each block of columns, uint32 ``[blocks + 1, rows]``."""

def sparse_transpose(
    num_rows: int, num_columns: int, row_pointers: int, columns: int, column_pointers: int, rows: int, permutation: int
) -> None:
    """Writes a pattern in column order, and where its entries lie in row order."""

def sparse_linear_forward(
    pattern: SparsePattern, values: int, value_type: ValueType, x: int, type: ValueType, batch: int, bias: int, y: int
) -> None:
    """``y = x W^T + bias``; the bias may be 0."""

def sparse_linear_backward(
    pattern: SparsePattern,
    transposed: SparsePattern | None,
    values: int,
    value_type: ValueType,
    x: int,
    output_gradient: int,
    type: ValueType,
    batch: int,
    input_gradient: int,
    value_gradient: int,
    bias_gradient: int,
) -> None:
    """The gradients whose address is not 0. Without a transposed pattern that of the input scatters."""

def device_sparse_multiply(
    device_index: int,
    rows: DeviceSparseRows,
    values: int,
    value_type: ValueType,
    features: int,
    type: ValueType,
    batch: int,
    bias: int,
    out: int,
    stream: int,
) -> None:
    """``out = W features + bias`` on a GPU, features before samples."""

def device_sparse_gradient(
    device_index: int,
    rows: DeviceSparseRows,
    features: int,
    type: ValueType,
    batch: int,
    output_gradient: int,
    gradient: int,
    value_type: ValueType,
    stream: int,
) -> None:
    """The gradient of the values on a GPU, features before samples."""

def sparse_convolution_shifts(
    shape: ConvolutionShape, layout: PlaneLayout, row_pointers: int, columns: int, shifts: int
) -> None:
    """Writes the distance in the padded planes at which each entry reads."""

def sparse_convolution_transpose(
    shape: ConvolutionShape,
    layout: PlaneLayout,
    row_pointers: int,
    columns: int,
    plane_pointers: int,
    out_channels: int,
    permutation: int,
    shifts: int,
) -> None:
    """Writes a pattern by planes, its permutation and shifts: for the gradient of the input."""

def sparse_convolution_forward(
    pattern: ConvolutionPattern,
    values: int,
    value_type: ValueType,
    x: int,
    type: ValueType,
    batch: int,
    bias: int,
    y: int,
) -> None:
    """The convolution of ``[batch, in, height, width]``; the bias may be 0."""

def sparse_convolution_backward(
    pattern: ConvolutionPattern,
    values: int,
    value_type: ValueType,
    x: int,
    output_gradient: int,
    type: ValueType,
    batch: int,
    input_gradient: int,
    value_gradient: int,
    bias_gradient: int,
) -> None:
    """The gradients whose address is not 0."""
