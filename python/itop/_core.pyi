from collections.abc import Callable, Sequence
from enum import Enum

import numpy as np
import numpy.typing as npt
from torch import Tensor

class BackendUnavailableError(RuntimeError): ...
class CudaError(RuntimeError): ...
class NonFiniteError(ValueError): ...

def build_info() -> dict[str, object]: ...
def num_threads() -> int: ...
def set_num_threads(num_threads: int) -> None: ...
def share_threads_with(library: str) -> bool: ...
def allocate(numel: Sequence[int], relative_density: Sequence[float], total: int) -> list[int]: ...
def tie_key(seed: int, layer: int, update: int, draw: int, index: int) -> int: ...

class BitSets:
    def intersection(self, other: BitSets, stream: int) -> BitSets: ...
    def complement(self, stream: int) -> BitSets: ...
    def union(self, other: BitSets, stream: int) -> BitSets: ...
    def difference(self, other: BitSets, stream: int) -> BitSets: ...
    def symmetric_difference(self, other: BitSets, stream: int) -> BitSets: ...
    def copy(self, stream: int) -> BitSets: ...
    def count(self, stream: int) -> list[int]: ...
    def num_bytes(self) -> int: ...
    def words(self, layer: int, stream: int) -> npt.NDArray[np.uint64]: ...
    def set_words(self, layer: int, words: npt.NDArray[np.uint64], stream: int) -> None: ...
    def unpack(self, layer: int, target: Tensor, stream: int) -> None: ...
    def pack(self, layer: int, source: Tensor, stream: int) -> None: ...

class MaskStore:
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
    ) -> BitSets: ...
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
    ) -> npt.NDArray[np.int64]: ...
    def apply(self, tensors: Sequence[Sequence[Tensor]], stream: int) -> None: ...

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
) -> BitSets: ...
def count_in_rows(set: BitSets, layer: int, num_rows: int) -> npt.NDArray[np.int64]: ...
def block_sums(
    values: Tensor, shape: tuple[int, int], block: tuple[int, int], *, magnitude: bool, sums: Tensor
) -> None: ...
def blocks_with_any(
    weights: BitSets, blocks: BitSets, layer: int, shape: tuple[int, int], block: tuple[int, int]
) -> None: ...
def weights_of_blocks(
    blocks: BitSets, weights: BitSets, layer: int, shape: tuple[int, int], block: tuple[int, int]
) -> None: ...
def compare_with(
    values: Tensor, bits: BitSets, layer: int, *, magnitude: bool, greater: bool, limit: float
) -> None: ...
def sum_magnitudes(set: BitSets, layer: int, values: Tensor) -> npt.NDArray[np.int64]: ...
def smallest_magnitude(set: BitSets, layer: int, values: Tensor) -> float: ...
def exploration_scores(
    active: BitSets,
    layer: int,
    gradients: Tensor,
    *,
    bonus: float,
    epsilon: float,
    counts: npt.NDArray[np.int16],
    scores: Tensor,
) -> None: ...
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
) -> None: ...
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
) -> None: ...

class ValueType(Enum):
    FLOAT32 = ...
    FLOAT64 = ...
    BFLOAT16 = ...

class PlaneLayout(Enum):
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
    def __init__(
        self, shape: ConvolutionShape, layout: PlaneLayout, forward: SparsePattern, transposed: SparsePattern
    ) -> None: ...

class PositionList:
    """Borrows its arrays, given by address."""

    def __init__(self, num_rows: int, num_columns: int, row_pointers: int, columns: int) -> None: ...

class StreamedGrowth:
    def __init__(
        self, taken: PositionList, k: int, seed: int, layer: int, update: int, draw: int, at_least: float
    ) -> None: ...
    def offer(self, first_row: int, num_rows: int, scores: int, type: str) -> None: ...
    def offer_product(self, passes: list[tuple[int, int, int]], type: str) -> None: ...
    def finish(self) -> npt.NDArray[np.int64]: ...

def grow_uniformly(
    taken: PositionList, k: int, seed: int, layer: int, update: int, draw: int, max_streamed: int
) -> npt.NDArray[np.int64]: ...
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
) -> None: ...

class SetOperation(Enum):
    UNION = ...
    INTERSECTION = ...
    DIFFERENCE = ...

def combine_positions(
    a: PositionList, b: PositionList, operation: SetOperation
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]: ...
def filter_positions(all: PositionList, is_member: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]: ...
def find_members(all: PositionList, set: PositionList, is_member: int) -> None: ...
def positions_of(
    num_rows: int, num_columns: int, indices: int, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]: ...

class CompressedSet:
    def __init__(self, numel: int) -> None: ...
    @property
    def count(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    def insert(self, positions: PositionList) -> int: ...
    def contains_all(self, positions: PositionList) -> bool: ...
    def to_positions(self, num_columns: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]: ...
    def to_bytes(self) -> npt.NDArray[np.uint8]: ...
    @staticmethod
    def from_bytes(numel: int, bytes: int, num_bytes: int) -> CompressedSet: ...

def sparse_carry_values(source: int, sources: int, count: int, element_size: int, target: int) -> None: ...
def sparse_update_pattern(
    pattern: PositionList, keep: int, grown: int, num_grown: int, regrown_keeps_value: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32], int]: ...
def lend_bytes(num_bytes: int) -> npt.NDArray[np.uint8]: ...
def sparse_check_pattern(
    num_rows: int, num_columns: int, num_entries: int, row_pointers: int, columns: int
) -> None: ...
def sparse_block_starts(
    num_rows: int, num_columns: int, row_pointers: int, columns: int, block_width: int, block_starts: int
) -> None: ...
def sparse_transpose(
    num_rows: int, num_columns: int, row_pointers: int, columns: int, column_pointers: int, rows: int, permutation: int
) -> None: ...
def sparse_linear_forward(
    pattern: SparsePattern, values: int, value_type: ValueType, x: int, type: ValueType, batch: int, bias: int, y: int
) -> None: ...
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
) -> None: ...
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
) -> None: ...
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
) -> None: ...
def sparse_convolution_shifts(
    shape: ConvolutionShape, layout: PlaneLayout, row_pointers: int, columns: int, shifts: int
) -> None: ...
def sparse_convolution_transpose(
    shape: ConvolutionShape,
    layout: PlaneLayout,
    row_pointers: int,
    columns: int,
    plane_pointers: int,
    out_channels: int,
    permutation: int,
    shifts: int,
) -> None: ...
def sparse_convolution_forward(
    pattern: ConvolutionPattern,
    values: int,
    value_type: ValueType,
    x: int,
    type: ValueType,
    batch: int,
    bias: int,
    y: int,
) -> None: ...
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
) -> None: ...
