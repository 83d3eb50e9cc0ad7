"""Jobs on their schedules: their deployments, the process that starts their runs, and runs that are skipped."""
