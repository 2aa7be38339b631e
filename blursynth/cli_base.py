"""What the sub-commands share."""

from __future__ import annotations

import functools

from freqdiff import command_line

ENGINE_HELP = "physics, diffusion, or diffusion:BASE[,key=value...]"

complain = functools.partial(command_line.complain, "blursynth")
