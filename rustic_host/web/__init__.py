"""HTTP routes of a host: the control API on its Unix socket, metrics and health on loopback.

The pages are handed what they show through :class:`~rustic_host.web.interface.HostInterface`.
"""
