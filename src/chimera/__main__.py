"""``python -m chimera``: the command line."""

import sys

from chimera.cli import main

if __name__ == "__main__":
    sys.exit(main())
