"""Runs the zygote: ``python -m rustic_host.execution FD HOST_PID``."""

import sys

from rustic_host.execution.zygote import main

sys.exit(main())
