"""The agents of the guild that the chaos suite runs: what they do is the same in whatever order messages come."""

from pydantic import BaseModel

from rustic_host.guild.agent import Agent
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.processor import processor
from rustic_host.guild.state import StateUpdateFormat

GROUP_SIZE = 10


class Job(BaseModel):
    n: int


class Odd(Job):
    """An odd number."""


class Even(Job):
    """An even number."""


class Square(BaseModel):
    n: int
    square: int


class Group(BaseModel):
    """All ten squares of a group of numbers have come; this is their sum."""

    group: int
    total: int


class Receipt(BaseModel):
    receipt: int


class Sorter(Agent):
    @processor(Job)
    def sort(self, ctx: ProcessContext[Job]) -> None:
        n = ctx.payload.n
        ctx.send(Odd(n=n) if n % 2 else Even(n=n))


class OddSquarer(Agent):
    @processor(Odd)
    def square(self, ctx: ProcessContext[Odd]) -> None:
        ctx.send(Square(n=ctx.payload.n, square=ctx.payload.n**2))


class EvenSquarer(Agent):
    @processor(Even)
    def square(self, ctx: ProcessContext[Even]) -> None:
        ctx.send(Square(n=ctx.payload.n, square=ctx.payload.n**2))


class Grouper(Agent):
    """Aggregates by ten. State: ``jobs`` and ``total`` of all that came, ``open`` groups with what they have."""

    @processor(Square)
    def add(self, ctx: ProcessContext[Square]) -> None:
        state, square = self.get_agent_state(), ctx.payload.square
        group = ctx.payload.n // GROUP_SIZE
        size, total = state.get("open", {}).get(str(group), (0, 0))
        size, total = size + 1, total + square
        update = {
            "jobs": state.get("jobs", 0) + 1,
            "total": state.get("total", 0) + square,
            "open": {str(group): None if size == GROUP_SIZE else [size, total]},
        }
        ctx.update_state(StateUpdateFormat.JSON_MERGE_PATCH, update)
        if size == GROUP_SIZE:
            ctx.send(Group(group=group, total=total))


class Auditor(Agent):
    """State: how many even numbers and groups came, and their sums."""

    @processor(Even)
    def even(self, ctx: ProcessContext[Even]) -> None:
        self._book(ctx, "even", ctx.payload.n)

    @processor(Group)
    def group(self, ctx: ProcessContext[Group]) -> None:
        self._book(ctx, "groups", ctx.payload.total)

    def _book(self, ctx: ProcessContext[Even] | ProcessContext[Group], name: str, value: int) -> None:
        number, total = self.get_agent_state().get(name, (0, 0))
        ctx.update_state(StateUpdateFormat.JSON_MERGE_PATCH, {name: [number + 1, total + value]})


class Receiver(Agent):
    @processor(Group)
    def receive(self, ctx: ProcessContext[Group]) -> None:
        ctx.send(Receipt(receipt=ctx.payload.group))
