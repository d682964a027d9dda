"""`python -m neuron.worker`: started by the daemon, told what to do on stdin."""

import sys

from neuron.worker.process import main

if __name__ == "__main__":
    sys.exit(main())
