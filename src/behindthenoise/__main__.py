"""`python -m behindthenoise` is the command `btn`."""

import sys

from behindthenoise.cli import main

sys.exit(main())
