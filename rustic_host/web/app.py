"""The two applications: control (on the Unix socket, full power) and metrics (on loopback, read only)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from rustic_host.errors import (
    BackendBusyError,
    BackendUnavailableError,
    ConfigError,
    MessageError,
    RequestError,
    RequestTimeoutError,
    RequestTooLargeError,
    RusticHostError,
    SpecError,
    UnknownAgentError,
    UnknownGuildError,
    UnknownMessageError,
    UnknownPositionError,
)
from rustic_host.telemetry.metrics import CONTENT_TYPE
from rustic_host.web.interface import HostInterface
from rustic_host.web.models import ErrorAnswer, HostStatus, OutgoingItem, PublishAnswer, answer_of, error_answer
from rustic_host.web.operator import ROUTES as OPERATOR_ROUTES
from rustic_host.web.stream import TailResponse, read_lines

#: HTTP status of an error: the first class that fits, 500 where none does.
_HTTP_STATUS: list[tuple[type[RusticHostError], int]] = [
    (UnknownGuildError, 404),
    (UnknownAgentError, 404),
    (UnknownMessageError, 404),
    (UnknownPositionError, 400),
    (RequestTooLargeError, 413),
    (RequestError, 400),
    (MessageError, 400),
    (SpecError, 400),
    (ConfigError, 400),
    (BackendBusyError, 429),
    (BackendUnavailableError, 503),
    (RequestTimeoutError, 504),
]
# ``EX_USAGE`` of ``sysexits.h``.
_EXIT_USAGE = 64


def control_app(host: HostInterface) -> FastAPI:
    """Return the control API of ``host``."""
    app = _app("rustic-host control", host)
    routes: list[tuple[str, str, Callable[..., Awaitable[object]]]] = [
        ("GET", "/v1/host", _get_host),
        ("GET", "/v1/status", _get_status),
        ("POST", "/v1/guilds/{guild}/messages", _post_messages),
        ("POST", "/v1/guilds/{guild}/requests", _post_request),
        ("GET", "/v1/guilds/{guild}/tail", _get_tail),
        ("POST", "/v1/stop", _post_stop),
    ]
    for method, path, endpoint in [*routes, *OPERATOR_ROUTES]:
        app.add_api_route(path, endpoint, methods=[method], response_model=None)
    return app


def metrics_app(host: HostInterface) -> FastAPI:
    """Return the metrics and health pages of ``host``."""
    app = _app("rustic-host metrics", host)
    for path, endpoint in (("/metrics", _get_metrics), ("/healthz", _get_health), ("/readyz", _get_ready)):
        app.add_api_route(path, endpoint, response_model=None)
    return app


def _app(title: str, host: HostInterface) -> FastAPI:
    app = FastAPI(
        title=title,
        version=host.version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # a trace is a message's, not a scrape's
    )
    app.state.host = host
    app.state.closing = asyncio.Event()
    app.exception_handler(RusticHostError)(_answer_error)
    app.exception_handler(RequestValidationError)(_answer_bad_request)
    app.exception_handler(HTTPException)(_answer_http_error)
    app.exception_handler(ClientDisconnect)(_answer_nobody)
    app.exception_handler(Exception)(_answer_bug)
    return app


def _host(request: Request) -> HostInterface:
    host: HostInterface = request.app.state.host
    return host


async def _get_host(request: Request) -> dict[str, object]:
    host = _host(request)
    return {"pid": host.pid, "version": host.version}


async def _get_status(request: Request) -> Response:
    status: HostStatus = await _host(request).status()
    return Response(status.model_dump_json(), media_type="application/json")


async def _post_messages(
    request: Request,
    guild: str,
    topic: Annotated[str, Query(min_length=1)],
    key: Annotated[str | None, Query(min_length=1)] = None,
) -> PublishAnswer:
    number = 0
    items: list[OutgoingItem] = []
    async for line in read_lines(request.stream()):
        number += 1
        if line.strip():
            items.append(_parse_item(line, number))
    ids = await _host(request).publish(guild, topic, items, key) if items else []
    return PublishAnswer(ids=ids, id_strings=[str(id_) for id_ in ids])


async def _post_request(
    request: Request,
    guild: str,
    topic: Annotated[str, Query(min_length=1)],
    timeout: Annotated[float, Query(gt=0, le=86400)],
    reply_on: Annotated[str | None, Query(min_length=1)] = None,
) -> Response:
    lines = [line async for line in read_lines(request.stream()) if line.strip()]
    if len(lines) != 1:
        raise RequestError(f"a request is one line of JSON, not {len(lines)}")
    reply = await _host(request).request(guild, topic, _parse_item(lines[0], 1), timeout, reply_on)
    return Response(reply, media_type="application/json")


def _parse_item(line: bytes, number: int) -> OutgoingItem:
    try:
        # Not in one step: a model does not pass "no NaN" on to the values of a JSON object.
        return OutgoingItem.model_validate(from_json(line, allow_inf_nan=False))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"line {number}: {where + ': ' if where else ''}{first['msg']}") from error
    except ValueError as error:
        raise RequestError(f"line {number}: Invalid JSON: {error}") from error


async def _get_tail(
    request: Request,
    guild: str,
    topic: Annotated[list[str] | None, Query()] = None,
    start: Annotated[str | None, Query(alias="from")] = None,
    wait: bool = True,
) -> Response:
    return TailResponse(_host(request).tail(guild, topic or [], start, wait), request.app.state.closing)


async def _post_stop(request: Request) -> dict[str, object]:
    host = _host(request)
    await host.stop()
    return {"pid": host.pid}


async def _get_metrics(request: Request) -> Response:
    return Response(await _host(request).metrics(), headers={"content-type": CONTENT_TYPE})


async def _get_health() -> Response:
    return PlainTextResponse("ok\n")


async def _get_ready(request: Request) -> Response:
    waiting = (await _host(request).status()).not_ready()
    if waiting:
        return PlainTextResponse("".join(f"{line}\n" for line in waiting), status_code=503)
    return PlainTextResponse("ok\n")


async def _answer_error(_request: Request, error: RusticHostError) -> Response:
    status = next((status for family, status in _HTTP_STATUS if isinstance(error, family)), 500)
    return _json(answer_of(error), status)


async def _answer_bad_request(_request: Request, error: RequestValidationError) -> Response:
    text = "; ".join(f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors())
    return _json(error_answer("RequestError", text, _EXIT_USAGE), 400)


async def _answer_http_error(_request: Request, error: HTTPException) -> Response:
    return _json(error_answer("RequestError", error.detail, _EXIT_USAGE), error.status_code)


async def _answer_nobody(_request: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=400)  # the client left in the middle of its request: nobody reads this


async def _answer_bug(_request: Request, error: Exception) -> Response:
    return _json(answer_of(error), 500)  # the server logs it, with its traceback


def _json(answer: ErrorAnswer, status: int) -> Response:
    return Response(answer.model_dump_json(), status, media_type="application/json")
