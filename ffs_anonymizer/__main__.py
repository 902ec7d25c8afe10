"""Run the command line tool as `python -m ffs_anonymizer`."""

import sys

from ffs_anonymizer.cli.program import main

if __name__ == '__main__':
    sys.exit(main())
