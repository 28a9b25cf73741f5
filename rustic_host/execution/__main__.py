"""Runs the zygote: ``python -m rustic_host.execution FD HOST_PID``."""

import sys

from rustic_host.execution.process import leave
from rustic_host.execution.zygote import main

code = 1
try:
    code = main()
except BaseException:  # noqa: BLE001 - the last frame of the process
    sys.excepthook(*sys.exc_info())
leave(code)  # a thread that some module started must not keep the zygote
