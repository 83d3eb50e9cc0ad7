"""``python -m flows.engine``: a run of a deployment in a process of its own, which waits until the server answers.

``serve`` starts its runs with this command, and a work pool does if ``prefect.yaml`` names it. Prefect's own command,
``python -m prefect.engine``, crashes if the server does not answer at once.
"""

from __future__ import annotations

import os
import runpy
import signal

# of a request: the pause doubles with each, so that a run waits for half an hour
MAX_RETRIES = 10


def main() -> None:
    """Wait for the server, then execute the run of ``PREFECT__FLOW_RUN_ID``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; what has started the run ends it
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", str(MAX_RETRIES))  # read when Prefect is imported
    import prefect.engine as engine

    from flows import terminal
    from flows.prefect_server.outages import survive_outages, wait_for_server

    survive_outages(lambda line: None)  # of the run at work, serve reports it
    wait_for_server(terminal.print_line, "the run begins when it does")
    runpy.run_path(engine.__file__, run_name="__main__")


if __name__ == "__main__":
    main()
