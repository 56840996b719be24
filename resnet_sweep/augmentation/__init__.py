"""What happens to a training batch: batched tensor operations on the device.

An operation is called with

- images: (B, 3, H, W), uint8, or floats of the same scale, 0..255;
- labels: (B,), int64;
- a generator on the images' device, from which it draws for each image by itself;

and returns images and labels.
"""

from resnet_sweep.augmentation.crop import RandomCrop
from resnet_sweep.augmentation.flip import RandomHorizontalFlip

__all__ = ["RandomCrop", "RandomHorizontalFlip"]
