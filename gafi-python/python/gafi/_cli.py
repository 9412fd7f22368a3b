"""The program `gafi-cli` of this package."""

import os
import signal
import sys


def main() -> None:
    """Runs `gafi-cli` with the process's arguments, and exits with its code."""
    from . import _gafi

    # GaFi catches Ctrl-C itself: the first stops at a safe point. Python's handler would raise KeyboardInterrupt on top.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    program = sys.argv[0] if os.path.isfile(sys.argv[0]) else "gafi-cli"
    sys.exit(_gafi.run([program, *sys.argv[1:]]))
