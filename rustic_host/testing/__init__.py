"""Helpers for users' own tests."""

from rustic_host.testing.agents import AgentUnderTest

__all__ = ["AgentUnderTest"]
