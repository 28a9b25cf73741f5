"""Collects messages that belong together and sends them on as one."""

from typing import Any, ClassVar

from pydantic import BaseModel

from rustic_host.agents.aggregation import (
    AggregatorConf,
    CelAggregator,
    CountingAggregator,
    DictCollector,
    FormatCountAggregator,
    FormatWithCount,
    Item,
    JsonataAggregator,
    ListCollector,
    TypeCollector,
    as_text,
    escaped,
)
from rustic_host.errors import RoutingError
from rustic_host.guild.agent import Agent
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.json_path import read_path
from rustic_host.guild.messages import ErrorMessage, SystemModel
from rustic_host.guild.processor import processor
from rustic_host.guild.state import StateUpdateFormat
from rustic_host.messaging import JsonDict

# The words of the properties are here too, where ported code looks for them.
__all__ = [
    "AggregatedMessages",
    "AggregatingAgent",
    "AggregatorConf",
    "CelAggregator",
    "CountingAggregator",
    "DictCollector",
    "FormatCountAggregator",
    "FormatWithCount",
    "JsonataAggregator",
    "ListCollector",
    "PayloadWithFormat",
    "TypeCollector",
]

REMEMBERED = 1000
"""How many finished correlation ids are kept, so that what comes late is not taken for the start of a new group."""

CHECK_FAILED = "AGGREGATION_CHECK_FAILED"
"""``error_type`` of the error message sent when the aggregator's expression failed; the message is kept."""

_OPEN = "aggregations"
_FINISHED = "aggregated"


class PayloadWithFormat(BaseModel):
    """One collected message: its format and its payload."""

    type: str
    data: JsonDict


class AggregatedMessages(SystemModel):
    """All messages of one correlation id."""

    wire_format: ClassVar[str] = "rustic_ai.core.agents.eip.aggregating_agent.AggregatedMessages"

    correlation_id: str
    messages: list[PayloadWithFormat]


class AggregatingAgent(Agent[AggregatorConf]):
    """Collects messages by a correlation id, and sends them as one ``AggregatedMessages`` when there are enough.

    In a spec::

        class_name: rustic_ai.core.agents.eip.aggregating_agent.AggregatingAgent
        properties:
          correlation_location: payload      # or session
          correlation_id_path: order.id      # without it, the innermost thread is the id
          collector: {collector_type: dict, key_field: supplier}              # or list, type
          aggregator: {aggregation_check: jsonata, expression: "count >= 2"}  # or count, format_count, cel

    A message without a correlation id at that path belongs to its thread's group. What is collected lies in the agent's
    state (``aggregations``) and goes into the store with each message; so do the last 1,000 finished ids
    (``aggregated``), whose latecomers are logged and dropped. An aggregate has several causes, each with a routing slip
    of its own, so it follows the routes of the guild anew, and without any goes to ``default_topic``.
    """

    _route_to_default_topic = True

    @processor(JsonDict)
    def collect_message(self, ctx: ProcessContext[JsonDict]) -> None:
        """Keep the message; send the aggregate if it was the last one wanted."""
        group = self._correlation_id(ctx)
        if group in self._state.get(_FINISHED, []):
            self.logger.warning("late_for_aggregate", correlation_id=group, message_id=ctx.message.id)
            return
        items = self._collect(ctx, group)
        if self._is_complete(ctx, group, items):
            self._finish(ctx, group)
            self._send(ctx, group, items)

    def _correlation_id(self, ctx: ProcessContext[JsonDict]) -> str:
        path, found = self.config.correlation_id_path, None
        if path:
            found = read_path(ctx.payload if self.config.correlation_location == "payload" else ctx.get_context(), path)
            if found is None:
                self.logger.info("no_correlation_id", path=path, message_id=ctx.message.id)
        return as_text(ctx.message.current_thread_id if found is None else found)

    def _collect(self, ctx: ProcessContext[JsonDict], group: str) -> list[Item]:
        pointer = f"/{_OPEN}/{escaped(group)}"
        item = {"type": ctx.message.format, "data": ctx.payload}
        additions = self.config.collector.additions(pointer, self._collection(group), item, ctx.message)
        self._patch(ctx, [*self._made(_OPEN, {}), *additions])
        return self.config.collector.items(self._collection(group))

    def _collection(self, group: str) -> Any:
        return self._state.get(_OPEN, {}).get(group)

    def _is_complete(self, ctx: ProcessContext[JsonDict], group: str, items: list[Item]) -> bool:
        try:
            return self.config.aggregator.is_complete(group, items, self.get_guild_state())
        except RoutingError as error:
            # Not raised: that would take the message out of its group again.
            text = f"correlation id {group}: {error}"
            name = self.get_qualified_class_name()
            ctx.send_error(ErrorMessage(agent_type=name, error_type=CHECK_FAILED, error_message=text))
            return False

    def _finish(self, ctx: ProcessContext[JsonDict], group: str) -> None:
        full = len(self._state.get(_FINISHED, [])) >= REMEMBERED
        forget: list[JsonDict] = [{"op": "remove", "path": f"/{_FINISHED}/0"}] if full else []
        self._patch(
            ctx,
            [
                {"op": "remove", "path": f"/{_OPEN}/{escaped(group)}"},
                *self._made(_FINISHED, []),
                *forget,
                {"op": "add", "path": f"/{_FINISHED}/-", "value": group},
            ],
        )

    def _send(self, ctx: ProcessContext[JsonDict], group: str, items: list[Item]) -> None:
        if self.guild_spec.routes.steps:
            ctx.set_routing_slip(self.guild_spec.routes)
        if self.config.correlation_location == "session" and not self.config.correlation_id_path:
            ctx.update_context({"correlation_id": group})
        messages = [PayloadWithFormat.model_validate(item) for item in items]
        ctx.send(AggregatedMessages(correlation_id=group, messages=messages))

    def _patch(self, ctx: ProcessContext[JsonDict], operations: list[JsonDict]) -> None:
        self.update_state(ctx, StateUpdateFormat.JSON_PATCH, {"operations": operations})

    def _made(self, key: str, empty: Any) -> list[JsonDict]:
        return [] if key in self._state else [{"op": "add", "path": f"/{key}", "value": empty}]
