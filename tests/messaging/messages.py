"""Messages for tests with hypothesis."""

from typing import Any

from hypothesis import strategies as st

from rustic_host.messaging import (
    AgentTag,
    ForwardHeader,
    FunctionalTransformer,
    GemstoneID,
    GuildStackEntry,
    Message,
    PayloadTransformer,
    Priority,
    ProcessEntry,
    ProcessStatus,
    RoutingDestination,
    RoutingOrigin,
    RoutingRule,
    RoutingSlip,
    StateTransformer,
)
from rustic_host.messaging.gemstone_id import MAX_ID

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBER = st.integers(-(2**80), 2**80)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=4)
TAG = st.builds(AgentTag, id=st.none() | TEXT, name=st.none() | TEXT)
ENTRY = st.builds(
    ProcessEntry,
    agent=TAG,
    origin=NUMBER,
    result=NUMBER,
    processor=TEXT,
    from_topic=st.none() | TEXT,
    to_topics=st.lists(TEXT, max_size=3),
    reason=st.none() | st.lists(TEXT, max_size=3),
)
ORIGIN = st.builds(RoutingOrigin, origin_sender=st.none() | TAG, origin_topic=st.none() | TEXT)
DESTINATION = st.builds(
    RoutingDestination,
    topics=st.none() | TEXT | st.lists(TEXT, max_size=3),
    recipient_list=st.lists(TAG, max_size=2),
    priority=st.none() | st.sampled_from(Priority),
)
TRANSFORMER = st.builds(PayloadTransformer, expression=TEXT) | st.builds(FunctionalTransformer, handler=TEXT)
RULE = st.builds(
    RoutingRule,
    agent=st.none() | TAG,
    agent_type=TEXT.filter(bool),
    origin_filter=st.none() | ORIGIN,
    destination=st.none() | DESTINATION,
    mark_forwarded=st.booleans(),
    route_times=NUMBER,
    transformer=st.none() | TRANSFORMER,
    agent_state_update=st.none() | st.builds(StateTransformer, state_update=TEXT),
    process_status=st.none() | st.sampled_from(ProcessStatus),
    reason=st.none() | TEXT,
)
FIELDS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "id_obj": st.integers(0, MAX_ID).map(GemstoneID.from_int),
        "sender": TAG,
        "topics": TEXT.filter(bool) | st.lists(TEXT, min_size=1, max_size=3),
        "recipient_list": st.lists(TAG, max_size=3),
        "payload": OBJECT.filter(bool),
        "format": TEXT.filter(lambda text: len(text) >= 3),
        "in_response_to": st.none() | NUMBER,
        "thread": st.lists(NUMBER, max_size=3),
        "conversation_id": st.none() | NUMBER,
        "forward_header": st.none() | st.builds(ForwardHeader, origin_message_id=NUMBER, on_behalf_of=TAG),
        "routing_slip": st.none() | st.builds(RoutingSlip, steps=st.lists(RULE, max_size=2)),
        "message_history": st.lists(ENTRY, max_size=2),
        "ttl": st.none() | NUMBER,
        "is_error_message": st.booleans(),
        "traceparent": st.none() | TEXT,
        "session_state": st.none() | OBJECT,
        "topic_published_to": st.none() | TEXT,
        "enrich_with_history": st.none() | NUMBER,
        "process_status": st.none() | st.sampled_from(ProcessStatus),
        "origin_guild_stack": st.lists(st.builds(GuildStackEntry, guild_id=TEXT, saga_id=TEXT), max_size=2),
    }
)

MESSAGE = FIELDS.map(lambda fields: Message(**fields))
