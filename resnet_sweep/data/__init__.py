"""Datasets, and batches of their images on a device."""

from resnet_sweep.data.cifar100 import CIFAR100
from resnet_sweep.data.dataset import Dataset, Split, Subsets
from resnet_sweep.data.digits import Digits

__all__ = ["CIFAR100", "Dataset", "Digits", "Split", "Subsets"]
