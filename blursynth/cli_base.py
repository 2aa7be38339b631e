"""What the sub-commands share."""

from __future__ import annotations

import sys

ENGINE_HELP = "physics, diffusion, or diffusion:BASE[,key=value...]"


def complain(message: str) -> None:
    """Print a sentence on stderr."""
    print(f"blursynth: {message}", file=sys.stderr)
