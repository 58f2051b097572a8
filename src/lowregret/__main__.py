"""`python -m lowregret`, which is what torchrun starts."""

from lowregret.cli.main import main

main()
