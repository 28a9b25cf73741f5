"""The routes about messages that were given up or stand still."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Query, Request, Response

from rustic_host.web.interface import HostInterface, OperatorInterface
from rustic_host.web.operator_models import AgentBacklog, LetterChoice, LetterPage, LettersDone, Sought

_Word = Annotated[str, Query(min_length=1)]


def _operator(request: Request) -> OperatorInterface:
    host: HostInterface = request.app.state.host
    return host.operator


async def _get_letters(request: Request, guild: str, choice: Annotated[LetterChoice, Query()]) -> LetterPage:
    return await _operator(request).letters(guild, choice)


async def _get_letter(request: Request, guild: str, letter_id: int) -> Response:
    return Response(await _operator(request).letter(guild, letter_id), media_type="application/json")


async def _post_replay(request: Request, guild: str, choice: Annotated[LetterChoice, Query()]) -> LettersDone:
    return await _operator(request).replay(guild, choice)


async def _post_purge(request: Request, guild: str, choice: Annotated[LetterChoice, Query()]) -> LettersDone:
    return await _operator(request).purge(guild, choice)


async def _get_pending(
    request: Request,
    guild: str,
    agent: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[AgentBacklog]:
    return await _operator(request).pending(guild, agent, limit)


async def _post_skip(
    request: Request, guild: str, agent: str, message: _Word, topic: str | None = None
) -> dict[str, object]:
    return await _operator(request).skip(guild, agent, message, topic)


async def _post_seek(
    request: Request, guild: str, agent: str, start: Annotated[str, Query(alias="from")], topic: str | None = None
) -> Sought:
    return await _operator(request).seek(guild, agent, start, topic)


ROUTES: list[tuple[str, str, Callable[..., Awaitable[object]]]] = [
    ("GET", "/v1/guilds/{guild}/dead-letters", _get_letters),
    ("POST", "/v1/guilds/{guild}/dead-letters/replay", _post_replay),
    ("POST", "/v1/guilds/{guild}/dead-letters/purge", _post_purge),
    ("GET", "/v1/guilds/{guild}/dead-letters/{letter_id}", _get_letter),
    ("GET", "/v1/guilds/{guild}/pending", _get_pending),
    ("POST", "/v1/guilds/{guild}/agents/{agent}/skip", _post_skip),
    ("POST", "/v1/guilds/{guild}/agents/{agent}/seek", _post_seek),
]
"""Method, path, endpoint."""
