"""`python -m homolog`: the command line."""

from homolog.cli import main

main()
