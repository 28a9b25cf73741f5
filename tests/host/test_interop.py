"""Which guilds have bridges, and what those read."""

import asyncio
from typing import Any, Literal

import pytest

from rustic_host.errors import ConfigError
from rustic_host.guild.dsl import GuildSpec
from rustic_host.host.interop import Interop, is_wanted
from rustic_host.messaging import RedisBackendConfig
from rustic_host.messaging.redis.retention import Bounds, Janitor
from tests.messaging.bus import Bus, wait_until
from tests.messaging.redis import foreign

Choice = Literal["auto", "on", "off"]


def guild(guild_id: str = "g", **properties: Any) -> GuildSpec:
    return GuildSpec.model_validate({"id": guild_id, "name": "g", "description": "d", "properties": properties})


@pytest.mark.parametrize(
    ("setting", "of_guild", "own_server", "wanted"),
    [
        ("auto", {}, False, True),
        ("auto", {}, True, False),
        ("auto", {"interop": "auto"}, False, True),
        ("auto", {"interop": "on"}, True, True),
        ("auto", {"interop": True}, True, True),  # YAML reads on and off as true and false
        ("auto", {"interop": "off"}, False, False),
        ("auto", {"interop": False}, False, False),
        ("on", {"interop": "off"}, True, True),
        ("off", {"interop": "on"}, False, False),
    ],
)
def test_the_setting_wins_then_the_guild_then_the_server(
    setting: Choice, of_guild: dict[str, Any], own_server: bool, wanted: bool
) -> None:
    assert is_wanted(setting, guild(**of_guild), own_server) is wanted


@pytest.mark.parametrize("word", ["maybe", 1, None])
def test_another_word_is_refused(word: object) -> None:
    with pytest.raises(ConfigError, match=r"guild g: interop is .*; it must be auto, on or off"):
        is_wanted("auto", guild(interop=word), False)


def test_it_reads_the_guild_and_its_inbox_and_no_other_guilds_inbox(bus: Bus) -> None:
    organization = f"org{bus.namespace}"
    ours, theirs = f"guild_inbox:{bus.namespace}", "guild_inbox:another"
    with Bus(str(bus.config.url), organization) as shared:
        interop = Interop(bus.config, guild(bus.namespace, organization_id=organization), lambda: ["t"])

        async def scenario() -> None:
            for topic in (ours, theirs):
                foreign.store(shared, foreign.foreign_message(1, topic), topic)
            foreign.store(bus, foreign.foreign_message(2))
            assert interop.error
            await interop.start()
            assert interop.error is None
            assert (bus.logged(), shared.logged(ours)) == ([2], [1])
            for topic in (theirs, ours):
                foreign.publish(shared, 3, topic=topic)
            wait_until(lambda: shared.logged(ours) == [1, 3])
            await interop.stop()
            await interop.stop()

        asyncio.run(scenario())
        assert shared.logged(theirs) == []


def test_what_others_send_to_the_inbox_is_bounded_by_the_guilds_retention(bus: Bus) -> None:
    organization, inbox = f"org{bus.namespace}", f"guild_inbox:{bus.namespace}"

    async def scenario() -> None:
        interop = Interop(bus.config, guild(bus.namespace, organization_id=organization), tuple)
        await interop.start()
        await interop.stop()

    with Bus(str(bus.config.url), organization) as shared:
        for n in range(5):
            foreign.store(shared, foreign.foreign_message(n, inbox), inbox)
        asyncio.run(scenario())
        assert shared.logged(inbox) == [0, 1, 2, 3, 4]
        janitor = Janitor(bus.config, Bounds(entries=2))
        janitor.sweep(bus.namespace, organization)
        janitor.close()
        assert shared.logged(inbox) == [3, 4]


def test_a_server_that_is_away_holds_nobody_up_for_ever(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rustic_host.host.interop.CATCH_UP_SECONDS", 0.1)
    nowhere = bus.config.model_copy(update={"url": "unix:///nowhere"})

    async def scenario() -> None:
        interop = Interop(nowhere, guild(), tuple)
        await interop.start()
        await asyncio.to_thread(wait_until, lambda: "cannot be reached" in str(interop.error))
        await interop.stop()

    asyncio.run(scenario())


class FakeBridge:
    """Gets on with its import for so many waits, and is done at the last, or never."""

    error = "not connected yet"

    def __init__(self, waits: int, *, ends: bool) -> None:
        self.imported = self.asked = 0
        self._waits, self._ends = waits, ends

    def start(self) -> None:
        return

    def catch_up(self, timeout: float) -> bool:
        self.asked += 1
        if self.asked < self._waits:
            self.imported += 1
        return self._ends and self.asked == self._waits


@pytest.mark.parametrize(("waits", "ends"), [(1, True), (5, True), (5, False)])
def test_an_import_is_waited_for_as_long_as_it_gets_on(monkeypatch: pytest.MonkeyPatch, waits: int, ends: bool) -> None:
    """Else groups would be made in the middle of what Rustic AI has handled, and the rest be handled again."""
    bridges: list[FakeBridge] = []

    def make(*_: object, **__: object) -> FakeBridge:
        bridges.append(FakeBridge(waits, ends=ends))
        return bridges[-1]

    monkeypatch.setattr("rustic_host.host.interop.Bridge", make)
    asyncio.run(Interop(RedisBackendConfig(url="unix:///nowhere"), guild(), tuple).start())
    assert [bridge.asked for bridge in bridges] == [waits, waits]
