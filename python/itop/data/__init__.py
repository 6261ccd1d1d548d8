"""Data sets with a training, a validation and a test split, as normalised batches on any device."""

from itop.data.augmentation import NO_AUGMENTATION, Augmentation, Padding
from itop.data.cache import cache_dir
from itop.data.dataset import Batch, BatchLoader, DataSet
from itop.data.decoding import Progress
from itop.data.errors import DataSetError
from itop.data.load import ALIASES, DATASETS, canonical_dataset_name, load_dataset
from itop.data.normalisation import Normalisation
from itop.data.resident import LabelledImages, ResidentDataSet
from itop.data.splits import Holdout
from itop.data.streamed import StreamedDataSet

__all__ = [
    "ALIASES",
    "DATASETS",
    "NO_AUGMENTATION",
    "Augmentation",
    "Batch",
    "BatchLoader",
    "DataSet",
    "DataSetError",
    "Holdout",
    "LabelledImages",
    "Normalisation",
    "Padding",
    "Progress",
    "ResidentDataSet",
    "StreamedDataSet",
    "cache_dir",
    "canonical_dataset_name",
    "load_dataset",
]
