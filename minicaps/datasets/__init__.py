"""Images with labels: MNIST wherever it is, IDX, .npz, CSV, folders of pictures; new images from old."""

from minicaps.datasets import augment
from minicaps.datasets.augment import Warps
from minicaps.datasets.dataset import Dataset, to_float
from minicaps.datasets.folders import read_image_folder
from minicaps.datasets.forms import ImageForm, check_classes, check_numbers
from minicaps.datasets.handwriting import has_form, like_mnist
from minicaps.datasets.idx import read_idx
from minicaps.datasets.idx_sets import read_idx_folder
from minicaps.datasets.listing import expand, find_files
from minicaps.datasets.load import REPOSITORY_DATA, cache_folder, load
from minicaps.datasets.mnist import PARTS, download_mnist
from minicaps.datasets.npz import read_npz
from minicaps.datasets.order import cut, first
from minicaps.datasets.pictures import border_is_light, fit_picture, read_picture, remark_on
from minicaps.datasets.remarks import about_images
from minicaps.datasets.tables import read_csv
from minicaps.datasets.testing import LabelledImages, read_test_images

__all__ = [
    "PARTS",
    "REPOSITORY_DATA",
    "Dataset",
    "ImageForm",
    "LabelledImages",
    "Warps",
    "about_images",
    "augment",
    "border_is_light",
    "cache_folder",
    "check_classes",
    "check_numbers",
    "cut",
    "download_mnist",
    "expand",
    "find_files",
    "first",
    "fit_picture",
    "has_form",
    "like_mnist",
    "load",
    "read_csv",
    "read_idx",
    "read_idx_folder",
    "read_image_folder",
    "read_npz",
    "read_picture",
    "read_test_images",
    "remark_on",
    "to_float",
]
