"""Which backend, by name: what a guild spec holds and what goes to a worker."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails

from rustic_host.errors import ConfigError
from rustic_host.messaging.backend import MessagingBackend
from rustic_host.messaging.unknown_keys import refuse_unknown
from rustic_host.telemetry.redact import redact_text

OURS = {
    "rustic_ai.redis.messaging": "rustic_host.messaging",
    "rustic_ai.redis.messaging.backend": "rustic_host.messaging",
    "rustic_ai.core.messaging": "rustic_host.messaging",
    "rustic_ai.core.messaging.backend": "rustic_host.messaging",
    "rustic_ai.core.messaging.backend.in_memory_backend": "rustic_host.messaging",
}
"""Rustic AI's module names (facts 5.6) and where the same classes are here."""


MEANT = {
    "backend_module": "a str, the dotted name of a module: 'rustic_host.messaging', say",
    "backend_class": "a str, the name of a class in it: 'RedisMessagingBackend', say",
    "backend_config": "a mapping of what the class is made with: {'redis_client': {'host': 'localhost'}}, say",
}
"""What each field takes."""


class MessagingConfig(BaseModel):
    """A backend's module, class and settings.

    Raises:
        ConfigError: when it is made, or validated: a field is missing, unknown or of a wrong type.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    backend_module: str
    backend_class: str
    backend_config: dict[str, Any] = Field(default_factory=dict, repr=False)

    @model_validator(mode="wrap")
    @classmethod
    def _understood(cls, given: Any, validate: ModelWrapValidatorHandler["MessagingConfig"]) -> "MessagingConfig":
        try:
            if isinstance(given, Mapping):
                refuse_unknown(given, cls.model_fields)
            return validate(given)
        except ValidationError as error:
            reasons = "; ".join(map(_mended, error.errors(include_url=False, include_context=False)))
            raise ConfigError(f"{cls.__name__}: {reasons}") from None
        except ValueError as error:
            raise ConfigError(f"{cls.__name__}: {error}") from None

    def validate_config(self) -> None:
        """Look whether the backend can be made, without making it.

        Raises:
            ConfigError: no such module or class, or settings that it does not take; it says which and why.
        """
        backend = self._backend()
        try:
            inspect.signature(backend).bind(**self.backend_config)
        except TypeError as error:
            raise ConfigError(f"{self._where}: backend_config: {self._misfit(backend) or error}") from None
        self._checked(backend)

    def get_storage(self) -> MessagingBackend:
        """Make the backend.

        Raises:
            ConfigError: as :meth:`validate_config`; or its constructor fails.
        """
        self.validate_config()
        try:
            return self._backend()(**self.backend_config)
        except ConfigError:
            raise
        except Exception as error:  # whatever somebody's backend raises when, say, its server is away
            reason = redact_text(f"{type(error).__name__}: {error}")
            raise ConfigError(f"{self._where}: backend_config: {reason}") from error

    @property
    def _where(self) -> str:
        return f"messaging backend {self.backend_module}.{self.backend_class}"

    def _backend(self) -> type[MessagingBackend]:
        try:
            module = importlib.import_module(OURS.get(self.backend_module, self.backend_module))
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{self._where}: backend_module: {error}") from error
        backend = getattr(module, self.backend_class, None)
        if backend is None:
            raise ConfigError(f"{self._where}: backend_class: there is none of that name")
        if not isinstance(backend, type) or not issubclass(backend, MessagingBackend):
            raise ConfigError(f"{self._where}: backend_class: it is no MessagingBackend")
        if missing := sorted(backend.__abstractmethods__):
            raise ConfigError(f"{self._where}: backend_class: it lacks {', '.join(missing)}")
        return backend

    def _checked(self, backend: type[MessagingBackend]) -> None:
        try:
            backend.check_settings(**self.backend_config)
        except ConfigError as error:
            raise ConfigError(f"{self._where}: backend_config.{error}") from None

    def _misfit(self, backend: type[MessagingBackend]) -> str:
        """What a key is that the constructor does not take; empty when it is another reason."""
        try:
            refuse_unknown(self.backend_config, inspect.signature(backend).parameters)
        except ValueError as error:
            return str(error)
        return ""


def _mended(wrong: ErrorDetails) -> str:
    """One mistake: where, what is there (its type alone, it may be a secret), and what belongs there."""
    given = type(wrong["input"]).__name__
    if not wrong["loc"]:
        return f"it is {given}; give a mapping with {', '.join(MEANT)}"
    name, *inside = map(str, wrong["loc"])
    what = "it is missing" if wrong["type"] == "missing" else f"it is {given}"
    if inside:
        what = f"a key of it is {given}, not str"
    return f"{name}: {what}; give {MEANT[name]}"
