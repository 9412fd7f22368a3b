"""`python -m gafi` is `gafi-cli`."""

from ._cli import main

main()
