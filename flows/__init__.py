"""The command line and the Prefect flows. Nothing below this package knows of Prefect.

Prefect reports usage to its makers unless these variables say otherwise before it is imported, hence here.
"""

import os

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
}
os.environ.update(TELEMETRY_OFF)
