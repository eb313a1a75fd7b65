"""`python -m copybot` is `copybot`."""

import sys

from copybot.cli import main

sys.exit(main())
