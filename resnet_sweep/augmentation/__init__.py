"""Augmentation of training batches by tensor operations on the training device.

An operation is called with

- images: (B, C, H, W), gray (C = 1) or RGB (C = 3), uint8, or floating in the same range, 0..255;
- labels: (B,), int64, or, after images were mixed, (B, classes), float32, the share of each class;
- a generator on the images' device, from which it draws random numbers for each image.

It returns images and labels, in any of these forms, and doesn't change its arguments.

Two parameters of its constructor aren't settings, and are passed by the program if the constructor
has them: `num_classes`, and `mean`, the mean per channel of the data's images, scaled to 0..1.
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
