"""NDJSON as a stream: answers that go on until somebody leaves, and bodies that are read as they come."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rustic_host.errors import RequestTooLargeError, RusticHostError
from rustic_host.telemetry.logs import get_logger
from rustic_host.web.models import answer_of
from rustic_host.web.tasks import end_tasks

#: Largest line of a body, in bytes without its newline. A message is held in memory several times over on its way.
MAX_LINE_BYTES = 16 * 1024 * 1024
#: Largest body of one request, in bytes; more is sent in more requests.
MAX_BODY_BYTES = 64 * 1024 * 1024

_log = get_logger(__name__)


class TailResponse(Response):
    """Streams the items of an iterator, one a line, and closes it as soon as anybody leaves.

    The head is sent with the first item, so an error before it is an ordinary error answer. A later one is the last
    line of the stream, ``{"error": ...}``.

    Args:
        items: JSON texts; an empty one only sends the head.
        closing: set when the server stops: the stream then ends in good order.
    """

    media_type = "application/x-ndjson"

    def __init__(self, items: AsyncIterator[bytes], closing: asyncio.Event) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._items = items
        self._closing = closing
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the items end, the client disconnects or the server closes."""
        pump = asyncio.ensure_future(self._pump(send))
        leavers = [asyncio.ensure_future(_disconnected(receive)), asyncio.ensure_future(self._closing.wait())]
        try:
            await asyncio.wait([pump, *leavers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(pump, *leavers)
        if not pump.cancelled():
            pump.result()
        await self._start(send)
        # After a disconnect the server drops what is sent; while it closes this ends the stream as the protocol wants.
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        try:
            async for item in self._items:
                await self._start(send)
                if item:
                    await _send_line(send, item)
        except Exception as error:
            if not self._started:
                raise
            expected = isinstance(error, RusticHostError)
            _log.warning("tail_failed", error=str(error), exc_info=None if expected else error)
            await _send_line(send, answer_of(error).model_dump_json().encode())
        finally:
            close = getattr(self._items, "aclose", None)
            if close is not None:
                await close()

    async def _start(self, send: Send) -> None:
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


async def read_lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Split a body that comes in chunks into its lines, without their newlines.

    Raises:
        RequestTooLargeError: a line or the whole body is larger than we take; raised as soon as that is known.
    """
    line = bytearray()
    number, total = 1, 0
    async for chunk in chunks:
        total += len(chunk)
        if total > MAX_BODY_BYTES:
            raise RequestTooLargeError(f"the request is larger than {MAX_BODY_BYTES} bytes; send it in parts")
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            line += piece
            yield _bounded(line, number)
            line, number = bytearray(), number + 1
        line += rest
        _bounded(line, number)
    if line:
        yield bytes(line)


def _bounded(line: bytearray, number: int) -> bytes:
    if len(line) > MAX_LINE_BYTES:
        raise RequestTooLargeError(f"line {number} of the request is larger than {MAX_LINE_BYTES} bytes")
    return bytes(line)


async def _send_line(send: Send, item: bytes) -> None:
    # A raw newline can only stand between JSON tokens (a foreign publisher's pretty print): a blank means the same.
    line = item.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n"
    await send({"type": "http.response.body", "body": line, "more_body": True})
    # Where items come without a wait, nothing else would have its turn; nor would we hear that the client is gone.
    await asyncio.sleep(0)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
