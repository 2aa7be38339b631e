"""`freqdiff web`: the web page, for this computer or for others."""

from __future__ import annotations

import argparse

from freqdiff.arguments import whole_number
from freqdiff.errors import InputError

SUMMARY = "serve a web page to drop photos on"
USAGE = "[options]"
EXAMPLES = """\
examples:
  freqdiff web
  freqdiff web --port 8080 --max-megapixels 24
  freqdiff web --host 0.0.0.0      # everybody who can reach this computer

Photos stay on this computer and are deleted when their visitor leaves."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen at (127.0.0.1: this computer alone)",
    )
    parser.add_argument(
        "--port",
        type=whole_number(0, 65535),
        default=7860,
        metavar="N",
        help="port to listen at, 0 for one that is free (7860)",
    )
    parser.add_argument(
        "--max-megapixels",
        type=whole_number(1, 400),
        default=50,
        metavar="N",
        help="limit for the size of photos, in millions of pixels (50)",
    )
    parser.add_argument(
        "--model", default="tiny", metavar="NAME", help="shipped model or model folder (tiny)"
    )
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="where to compute: auto, cpu, cuda, cuda:1, ... (auto)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted; returns the exit code.

    Raises:
        InputError: Gradio is missing, or the address or port cannot be used.
    """
    try:
        from freqdiff.web import serve
    except ImportError as error:
        if error.name is not None and error.name.startswith("freqdiff"):
            raise
        raise InputError(
            "The web page needs the package gradio: install it with "
            'pip install "freqdiff-deblur[web]".'
        ) from error
    serve(
        arguments.host,
        arguments.port,
        model=arguments.model,
        device=arguments.device,
        max_megapixels=arguments.max_megapixels,
        started=lambda address: print(f"The page is at {address} (Ctrl+C ends it).", flush=True),
    )
    return 0
