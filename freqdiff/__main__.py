"""`python -m freqdiff` is the command `freqdiff`."""

import sys

from freqdiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
