"""What can be wrong with certificates, in words that name the file or the reason."""

import ssl
from typing import Any

from rustic_host.errors import BackendNotReadyError, BackendRefusedError

FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def distrusted(error: BaseException) -> str | None:
    """Why the server's certificate is not trusted, when that is what an exception of redis-py came of; else None."""
    cause = error.__cause__ or error.__context__
    if not isinstance(cause, ssl.SSLCertVerificationError):
        return None
    return f"its certificate cannot be verified with ssl_ca_certs (or the system's authorities): {cause.verify_message}"


def check_files(where: str, pool: Any, *, known: bool) -> None:
    """See that the files can be read that a connection pool's settings name.

    Raises:
        BackendRefusedError: one cannot; redis-py would say "No such file" and not which.
        BackendNotReadyError: the same, where they could be before (``known``): they are being renewed.
    """
    for setting in FILES:
        if path := pool.connection_kwargs.get(setting):
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                kind = BackendNotReadyError if known else BackendRefusedError
                raise kind(f"{where}: {setting} {path}: {error.strerror}") from error
