"""``python -m itop``: the command line without its entry point."""

import sys

from itop.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
