"""The command `python -m resnet_sweep`, which is also installed as `resnet-sweep`."""

import sys

from resnet_sweep.cli import main

if __name__ == "__main__":
    # `python -m` looks for modules in the current folder first, so a file such as hydra.py there
    # would replace an installed package. Packages of the user's own are found there last.
    if not sys.flags.safe_path:
        sys.path.append(sys.path.pop(0))
    main()
