"""Connects topics: all it does is done by the routes of its guild."""

from rustic_host.guild.agent import Agent
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.processor import processor
from rustic_host.messaging import JsonDict


class BasicWiringAgent(Agent):
    """Sends every payload on, in its own format: as the routes say, else to ``default_topic``.

    In a spec::

        class_name: rustic_ai.core.agents.eip.basic_wiring_agent.BasicWiringAgent
        additional_topics: [orders]
    """

    _route_to_default_topic = True

    @processor(JsonDict)
    def wire_message(self, ctx: ProcessContext[JsonDict]) -> None:
        """Send the payload on."""
        ctx.send_dict(ctx.payload, ctx.message.format)
