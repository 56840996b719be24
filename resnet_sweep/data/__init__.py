"""Datasets, and batches of their images on a device."""

from resnet_sweep.data.cifar100 import CIFAR100
from resnet_sweep.data.dataset import Dataset, Split, Subsets
from resnet_sweep.data.digits import Digits
from resnet_sweep.data.huggingface import HuggingFace
from resnet_sweep.data.image_folder import ImageFolder, TinyImageNet
from resnet_sweep.data.npz import NPZ
from resnet_sweep.data.torchvision_sets import CIFAR10, SVHN, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "NPZ",
    "SVHN",
    "Dataset",
    "Digits",
    "FashionMNIST",
    "HuggingFace",
    "ImageFolder",
    "Split",
    "Subsets",
    "TinyImageNet",
]
