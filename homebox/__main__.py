"""`python -m homebox` is the command line."""

import sys

from homebox.cli import main

sys.exit(main())
