"""The daemon: settings, lifecycle, supervision, control API."""
