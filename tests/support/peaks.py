"""The memory that a command of ``gmm-dask`` takes."""

import re
import subprocess
import sys

# the peak of the process itself; getrusage would count what its parent held when it was started
PEAK = """
import re, sys
from flows.cli import app
try:
    app()
finally:
    status = open("/proc/self/status").read()
    print("PEAK", re.search(r"VmHWM:\\s+(\\d+)", status).group(1), file=sys.stderr)
"""


def peak_of(*command):
    """The peak of the process that runs a command, in bytes."""
    ended = subprocess.run([sys.executable, "-c", PEAK, *command], capture_output=True, text=True, check=True)
    return 1024 * int(re.search(r"PEAK (\d+)", ended.stderr).group(1))
