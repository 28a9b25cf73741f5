"""Lets messages of other guilds in, and answers out."""

from pydantic import Field

from rustic_host.agents.boundary import BoundaryAgent, saga_key
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.dsl import BaseAgentProps
from rustic_host.guild.messages import ErrorMessage
from rustic_host.guild.processor import processor
from rustic_host.guild.state import StateUpdateFormat
from rustic_host.messaging import JsonDict, Message

SAGA_MISSING = "SAGA_STATE_MISSING"
"""``error_type`` of the error message sent when the session of an answer is not in the guild's state."""

EVERYTHING = "*"


class GatewayAgentProps(BaseAgentProps):
    """Which formats may pass: requests in, answers out, answers of others in. None without a list; ``*`` is all."""

    input_formats: list[str] = Field(default_factory=list)
    output_formats: list[str] = Field(default_factory=list)
    returned_formats: list[str] = Field(default_factory=list)


def _is_request(agent: "GatewayAgent", message: Message) -> bool:
    stack = message.origin_guild_stack
    return (
        agent._is_from_shared_inbox(message)
        and bool(stack)
        and stack[-1].guild_id != agent.guild_id
        and agent._lets_in(agent.config.input_formats, message)
    )


def _is_returned(agent: "GatewayAgent", message: Message) -> bool:
    stack = message.origin_guild_stack
    return (
        agent._is_from_shared_inbox(message)
        and bool(stack)
        and stack[-1].guild_id == agent.guild_id
        and agent._lets_in(agent.config.returned_formats, message)
    )


def _is_answer(agent: "GatewayAgent", message: Message) -> bool:
    stack = message.origin_guild_stack
    return (
        not agent._is_from_shared_inbox(message)
        and bool(stack)
        and stack[-1].guild_id != agent.guild_id
        and _may_pass(agent.config.output_formats, message)
    )


class GatewayAgent(BoundaryAgent[GatewayAgentProps]):
    """The door of a guild: requests of other guilds come in, the answers to them go out, and so do answers to its own.

    In a spec, as an agent, or as ``gateway:`` with the same keys::

        id: gateway
        name: Gateway
        class_name: rustic_ai.core.guild.g2g.gateway_agent.GatewayAgent
        properties: {input_formats: [app.Invoice], output_formats: [app.Receipt], returned_formats: ["*"]}

    What comes in goes where the guild's routes for the gateway say, else to ``default_topic``. Any message that the
    gateway hears in its guild and that follows from a request, of a format in ``output_formats``, is an answer to it.
    """

    _route_to_default_topic = True

    @property
    def subscribe_to_shared_inbox(self) -> bool:
        """It hears what other guilds send to this one."""
        return True

    @processor(JsonDict, _is_request)
    def handle_inbound_request(self, ctx: ProcessContext[JsonDict]) -> None:
        """Let a request in; what follows from it keeps the stack that leads back."""
        self._enter(ctx)

    @processor(JsonDict, _is_returned)
    def handle_returned_response(self, ctx: ProcessContext[JsonDict]) -> None:
        """Let an answer in, with the session of the message that was sent; pass it on if others wait for it."""
        *stack, here = ctx.message.origin_guild_stack
        ctx.set_origin_stack(stack)
        if here.saga_id:
            self._restore(ctx, here.saga_id)
        self._enter(ctx)
        if stack and _may_pass(self.config.output_formats, ctx.message):
            self._cross(ctx, stack[-1].guild_id, stack, ctx.message.sender)

    @processor(JsonDict, _is_answer)
    def handle_outbound(self, ctx: ProcessContext[JsonDict]) -> None:
        """Send an answer back to the guild that asked."""
        # In the name of who answered: the other gateway may have this one's id, and hears nothing of its own.
        stack = ctx.message.origin_guild_stack
        self._cross(ctx, stack[-1].guild_id, stack, ctx.message.sender)

    def _enter(self, ctx: ProcessContext[JsonDict]) -> None:
        ctx.set_routing_slip(self.guild_spec.routes)
        ctx.send_dict(ctx.payload, ctx.message.format, forwarding=True)

    def _restore(self, ctx: ProcessContext[JsonDict], saga_id: str) -> None:
        key = saga_key(saga_id)
        session = self.get_guild_state().get(key)
        if session is None:
            text = f"the session of the message that {ctx.message.id} answers is not in the guild's state, under {key}"
            name = self.get_qualified_class_name()
            ctx.send_error(ErrorMessage(agent_type=name, error_type=SAGA_MISSING, error_message=text))
            return
        ctx.update_context(session)
        self.update_guild_state(ctx, StateUpdateFormat.JSON_MERGE_PATCH, {key: None})

    def _lets_in(self, formats: list[str], message: Message) -> bool:
        passes = _may_pass(formats, message)
        if not passes:
            came_from = message.origin_guild_stack[-1].guild_id
            self.logger.warning("gateway_refused", format=message.format, top_of_stack=came_from, message_id=message.id)
        return passes


def _may_pass(formats: list[str], message: Message) -> bool:
    return EVERYTHING in formats or message.format in formats
