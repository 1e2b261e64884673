"""``python -m mmx`` is the command ``mmx``."""

from mmx.cli.main import main

main()
