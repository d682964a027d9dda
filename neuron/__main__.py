"""`python -m neuron`."""

import sys

from neuron.cli import main

if __name__ == "__main__":
    sys.exit(main())
