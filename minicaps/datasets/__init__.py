"""Images with labels: MNIST wherever it is, other IDX files, folders of pictures, and new images from old."""

from minicaps.datasets import augment
from minicaps.datasets.augment import Warps
from minicaps.datasets.dataset import Dataset, to_float
from minicaps.datasets.folders import read_image_folder
from minicaps.datasets.forms import ImageForm, check_classes, check_numbers
from minicaps.datasets.idx import read_idx, read_idx_folder
from minicaps.datasets.load import REPOSITORY_DATA, cache_folder, load
from minicaps.datasets.mnist import PARTS, download_mnist
from minicaps.datasets.pictures import border_is_light, fit_picture, read_picture

__all__ = [
    "PARTS",
    "REPOSITORY_DATA",
    "Dataset",
    "ImageForm",
    "Warps",
    "augment",
    "border_is_light",
    "cache_folder",
    "check_classes",
    "check_numbers",
    "download_mnist",
    "fit_picture",
    "load",
    "read_idx",
    "read_idx_folder",
    "read_image_folder",
    "read_picture",
    "to_float",
]
