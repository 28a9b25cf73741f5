"""Greets visitors, and counts them."""

from pydantic import BaseModel

from rustic_host.guild import Agent, ProcessContext, processor


class Visitor(BaseModel):
    """Who comes in."""

    name: str


class Greeting(BaseModel):
    """What is said to a visitor."""

    text: str


class Greeter(Agent):
    """Greets each visitor. The count is stored in one step with the greeting: after any crash, both are right."""

    @processor(Visitor)
    def greet(self, ctx: ProcessContext[Visitor]) -> None:
        """Called with each message of the format ``hello.Visitor``."""
        number = self.get_agent_state().get("visitors", 0) + 1
        ctx.update_state("json-merge-patch", {"visitors": number})
        ctx.send(Greeting(text=f"Hello, {ctx.payload.name}! You are visitor {number}."))
