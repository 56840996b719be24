"""The Python API, whose public names `resnet_sweep` exports."""
