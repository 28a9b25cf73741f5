"""Sends back what it gets."""

from rustic_host.guild.agent import Agent
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.processor import processor
from rustic_host.messaging import JsonDict


class EchoAgent(Agent):
    """Sends every payload on, in its own format: as the routes say, else to where it came from.

    In a spec::

        class_name: rustic_ai.core.agents.testutils.echo_agent.EchoAgent
    """

    @processor(JsonDict)
    def echo_message(self, ctx: ProcessContext[JsonDict]) -> None:
        """Send the payload on."""
        ctx.send_dict(ctx.payload, ctx.message.format)
