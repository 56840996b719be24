"""The command `python -m resnet_sweep`, which is also installed as `resnet-sweep`."""

from resnet_sweep.cli import main

if __name__ == "__main__":
    main()
