"""`python -m blursynth` is the command `blursynth`."""

import sys

from blursynth.cli import main

if __name__ == "__main__":
    sys.exit(main())
