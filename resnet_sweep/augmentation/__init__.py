"""Augmentation of training batches by tensor operations on the training device.

`resnet_sweep.protocols.Augmentation` describes the interface of an operation.
"""

from resnet_sweep.augmentation.color import ColorJitter
from resnet_sweep.augmentation.crop_flip import RandomCrop, RandomHorizontalFlip
from resnet_sweep.augmentation.erasing import Cutout, RandomErasing
from resnet_sweep.augmentation.mixing import CutMix, CutMixOrMixUp, MixUp
from resnet_sweep.augmentation.trivial_augment import TrivialAugment

__all__ = [
    "ColorJitter",
    "CutMix",
    "CutMixOrMixUp",
    "Cutout",
    "MixUp",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "TrivialAugment",
]
