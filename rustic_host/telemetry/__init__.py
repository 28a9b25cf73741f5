"""Logs, traces and metrics. Knows nothing of what is observed; import the modules, not this package."""
