"""Secrets as a dependency: handlers ask for them when they need them, so that no spec or state has to hold one."""

import os
from abc import ABC, abstractmethod

from rustic_host.guild.dependencies import DependencyResolver


class SecretProvider(ABC):
    """Gives secrets by name."""

    @abstractmethod
    def get_secret(self, key: str) -> str | None:
        """Return the secret, or None if there is none."""


class EnvSecretProvider(SecretProvider):
    """Takes secrets from environment variables, the most specific one first.

    For the key ``api_key`` these are ``<ORG>_<GUILD>_<AGENT>_API_KEY``, then the same without the agent, without the
    guild, and ``API_KEY``: all in capitals, ids otherwise as they are. A variable that is empty counts as not set. An
    agent without an organization has no first part. Values are looked up each time, and neither kept nor logged.
    """

    def __init__(self, org_id: str, guild_id: str, agent_id: str) -> None:
        self._scope = [part for part in (org_id, guild_id, agent_id) if part]

    def get_secret(self, key: str) -> str | None:
        """Return the secret, or None if no variable holds one."""
        for length in range(len(self._scope), -1, -1):
            value = os.environ.get("_".join([*self._scope[:length], key]).upper())
            if value:
                return value
        return None


class EnvSecretProviderDependencyResolver(DependencyResolver[SecretProvider]):
    """Provides :class:`EnvSecretProvider` for the scope that is asked for."""

    def resolve(self, org_id: str, guild_id: str, agent_id: str) -> SecretProvider:
        """Make the provider of a scope."""
        return EnvSecretProvider(org_id, guild_id, agent_id)
