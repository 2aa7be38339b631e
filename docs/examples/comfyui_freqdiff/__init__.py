"""Adds the node "FreqDiff deblur" to ComfyUI: copy this folder into ComfyUI/custom_nodes."""

from .node import FreqDiffDeblur

NODE_CLASS_MAPPINGS = {"FreqDiffDeblur": FreqDiffDeblur}
NODE_DISPLAY_NAME_MAPPINGS = {"FreqDiffDeblur": "FreqDiff deblur"}
__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
