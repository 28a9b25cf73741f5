import logging
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from rustic_host.errors import AgentError, AgentLoadError, ConfigError
from rustic_host.guild import AgentDependency, DependencyResolver, DependencySpec
from rustic_host.guild.agent import Agent, build_agent
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.dependencies import GUILD_GLOBAL, ORG_GLOBAL, NoOrganizationError, as_dependency
from rustic_host.guild.processor import processor
from rustic_host.guild.secrets import EnvSecretProvider, SecretProvider
from rustic_host.messaging import JsonDict
from tests.guild.bus import GENERATOR, FakeClient, agent_spec, build, class_name, guild_spec, message

THEIR_SECRETS = "rustic_ai.core.guild.agent_ext.depends.secrets.env_secret_provider.EnvSecretProviderDependencyResolver"


class Scope(DependencyResolver[str]):
    """Tells the scope it is asked for; counts how often."""

    def __init__(self, prefix: str = "", fail: bool = False) -> None:
        self.prefix, self.fail, self.asked = prefix, fail, 0

    def resolve(self, org_id: str, guild_id: str, agent_id: str) -> str:
        self.asked += 1
        if self.fail:
            raise OSError("no disk")
        return f"{self.prefix}{org_id}/{guild_id}/{agent_id}"


class Fresh(Scope):
    memoize_resolution = False


class Composed(DependencyResolver[list[str]]):
    """Rests on another dependency."""

    def __init__(self, kind: str = "str") -> None:
        self.kind = {"str": str, "int": int}[kind]

    def resolve(self, org_id: str, guild_id: str, agent_id: str) -> list[str]:
        return ["composed", str(self.inject(self.kind, "plain", org_id, guild_id, agent_id))]


class NoResolver:
    pass


ORGANIZATIONS = AgentDependency(dependency_key="plain", dependency_var="o", org_level=True)


class Needs(Agent):
    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []

    @processor(JsonDict, depends_on=["plain", "plain:guildwide:guild", ORGANIZATIONS])
    def handle(self, ctx: ProcessContext[JsonDict], plain: str, guildwide: str, o: str) -> None:
        self.got.append({"plain": plain, "guildwide": guildwide, "o": o})

    @processor(JsonDict)
    async def without(self, ctx: ProcessContext[JsonDict]) -> None:
        self.got.append({})


class NeedsAsync(Agent):
    def __init__(self) -> None:
        self.got: list[str] = []

    @processor(JsonDict, depends_on=["plain"])
    async def handle(self, ctx: ProcessContext[JsonDict], plain: str) -> None:
        self.got.append(plain)


class NeedsSecrets(Agent):
    @processor(JsonDict, depends_on=["secrets"])
    def handle(self, ctx: ProcessContext[JsonDict], secrets: SecretProvider) -> None:
        ctx.send_dict({"found": secrets.get_secret("api_key") is not None, "other": secrets.get_secret("other")})
        raise ValueError("after the secret was read")


def spec(cls: type, **properties: Any) -> dict[str, Any]:
    return {"class_name": class_name(cls), "properties": properties}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, without a file named by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUSTIC_AI_DEPENDENCY_CONFIG", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("llm", ("llm", "llm", "agent")),
        ("llm:model", ("llm", "model", "agent")),
        ("llm:guild", ("llm", "llm", "guild")),
        ("llm:org", ("llm", "llm", "org")),
        ("llm:model:guild", ("llm", "model", "guild")),
        ("llm:model:True", ("llm", "model", "guild")),
        ("llm:model:False", ("llm", "model", "agent")),
        ("llm:model:org", ("llm", "model", "org")),
        ("llm::org", ("llm", "llm", "org")),
    ],
)
def test_the_texts_that_name_a_dependency(text: str, expected: tuple[str, str, str]) -> None:
    found = as_dependency(text)
    scope = "org" if found.org_level else "guild" if found.guild_level else "agent"
    assert (found.dependency_key, found.variable_name, scope) == expected
    assert found.agent_level == (scope == "agent")


@pytest.mark.parametrize("wrong", ["", ":var", "llm:var:world", "llm:var:guild:more", {"dependency_var": "x"}])
def test_what_names_none_is_refused(wrong: Any) -> None:
    with pytest.raises(AgentError, match="is no dependency"):
        as_dependency(wrong)


@pytest.mark.parametrize(("wrong", "reason"), [("llm", "takes a list"), (["a:x", "b:x"], "one argument twice")])
def test_a_processor_refuses_wrong_dependencies(wrong: Any, reason: str) -> None:
    with pytest.raises(AgentError, match=reason):
        processor(JsonDict, depends_on=wrong)


def test_a_handler_gets_what_it_asks_for_each_in_its_scope() -> None:
    agent, _ = build(Needs, guild={"dependency_map": {"plain": spec(Scope)}, "properties": {"organization_id": "o1"}})
    assert isinstance(agent, Needs)
    assert agent._on_message(message()) == "ok"
    agent.close()
    scopes = {"plain": "o1/g1/a1", "guildwide": f"o1/g1/{GUILD_GLOBAL}", "o": f"o1/{ORG_GLOBAL}/{ORG_GLOBAL}"}
    assert agent.got == [scopes, {}]
    assert agent.get_organization() == "o1"


def test_an_async_handler_gets_its_own_too() -> None:
    agent, _ = build(NeedsAsync, dependency_map={"plain": spec(Scope)})
    assert isinstance(agent, NeedsAsync)
    assert agent._on_message(message()) == "ok"
    agent.close()
    assert agent.got == ["/g1/a1"]


def test_what_was_made_is_made_once_for_each_scope_unless_its_resolver_says_otherwise() -> None:
    for kind, times in ((Scope, 3), (Fresh, 6)):
        agent, _ = build(Needs, dependency_map={"plain": spec(kind)})
        agent._on_message(message())
        agent._on_message(message())
        agent.close()
        resolver = agent._dependency_resolvers["plain"]
        assert isinstance(resolver, Scope)
        assert resolver.asked == times


def test_a_resolver_that_raises_is_a_failure_of_the_handler_alone_and_is_asked_again() -> None:
    agent, client = build(Needs, dependency_map={"plain": spec(Scope, fail=True)})
    assert isinstance(agent, Needs)
    assert agent._on_message(message()) == "error"
    assert agent.got == [{}]
    assert [sent.payload["error_message"] for sent in client.published] == ["no disk"]
    resolver = agent._dependency_resolvers["plain"]
    assert isinstance(resolver, Scope)
    resolver.fail = False
    assert agent._on_message(message()) == "ok"
    agent.close()


def test_the_agents_map_wins_over_the_guilds_and_that_over_the_file(folder: Path) -> None:
    def prefix(agent_map: dict[str, Any], guild_map: dict[str, Any]) -> str:
        agent, _ = build(NeedsAsync, dependency_map=agent_map, guild={"dependency_map": guild_map})
        resolver = agent._dependency_resolvers["plain"]
        assert isinstance(resolver, Scope)
        return resolver.prefix

    (folder / "conf").mkdir()
    (folder / "conf/agent-dependencies.yaml").write_text(
        f"plain: {{class_name: {class_name(Scope)}, properties: {{prefix: file}}}}\n"
    )
    guild = {"plain": spec(Scope, prefix="guild")}
    assert prefix({"plain": spec(Scope, prefix="agent")}, guild) == "agent"
    assert prefix({}, guild) == "guild"
    assert prefix({}, {}) == "file"


def test_the_environment_names_another_file_and_one_that_is_missing_is_warned_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "deps.yaml").write_text(f"plain: {{class_name: {class_name(Scope)}}}\n")
    monkeypatch.setenv("RUSTIC_AI_DEPENDENCY_CONFIG", "deps.yaml")
    build(NeedsAsync)
    monkeypatch.setenv("RUSTIC_AI_DEPENDENCY_CONFIG", "gone.yaml")
    with capture_logs() as logs:
        build(NeedsAsync, dependency_map={"plain": spec(Scope)})
    assert [(row["event"], row["log_level"]) for row in logs] == [("dependency_config_missing", "warning")]
    monkeypatch.delenv("RUSTIC_AI_DEPENDENCY_CONFIG")
    with capture_logs() as logs:
        build(NeedsAsync, dependency_map={"plain": spec(Scope)})
    assert logs == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("plain: {class: x}", r"deps.yaml:1:.*class_name"),
        ("- plain", "expected a mapping"),
        ("plain: {", r"deps.yaml:\d+:\d+"),
    ],
)
def test_a_file_that_is_wrong_says_where(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str) -> None:
    (folder / "deps.yaml").write_text(text + "\n")
    monkeypatch.setenv("RUSTIC_AI_DEPENDENCY_CONFIG", "deps.yaml")
    with pytest.raises(ConfigError, match=reason):
        build(NeedsAsync)


def test_the_file_is_read_only_for_agents_that_ask_for_something(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "deps.yaml").write_text("{")
    monkeypatch.setenv("RUSTIC_AI_DEPENDENCY_CONFIG", "deps.yaml")
    build("tests.guild.sample_agents.Reply")


@pytest.mark.parametrize(
    ("fields", "kind", "reason"),
    [
        ({}, AgentError, r"agent 'A1': nothing provides the dependency 'plain'; no dependency_map has any"),
        ({"dependency_map": {"plan": spec(Scope), "b": spec(Scope)}}, AgentError,
         r"'plain'; there is `b`, `plan` \(did you mean `plan`\?\)"),
        ({"dependency_map": {"plain": spec(NoResolver)}}, AgentError, "NoResolver is no DependencyResolver"),
        ({"dependency_map": {"plain": spec(Scope, colour=1)}}, AgentError, r"cannot be built: TypeError: .*'colour'"),
        ({"dependency_map": {"plain": {"class_name": "no.such.Thing"}}}, AgentLoadError,
         "agent 'A1': cannot load `no.such.Thing`"),
        ({"dependency_map": {"plain": spec(Scope)}, "additional_dependencies": ["more"]}, AgentError,
         "'more'; there is `plain`"),
    ],
)  # fmt: skip
def test_what_cannot_be_provided_is_said_when_the_agent_is_built(
    folder: Path, fields: dict[str, Any], kind: type[Exception], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        build(NeedsAsync, **fields)


def test_additional_dependencies_have_resolvers_too() -> None:
    dependency_map = {"plain": spec(Scope), "more": spec(Scope, prefix="m:"), "most": spec(Scope)}
    additional = ["more:x:guild", {"dependency_key": "most"}]
    agent, _ = build(NeedsAsync, dependency_map=dependency_map, additional_dependencies=additional)
    assert list(agent._dependency_resolvers) == ["plain", "more", "most"]
    assert agent._dependency_resolvers["more"].get_or_resolve("o", "g") == f"m:o/g/{GUILD_GLOBAL}"


def test_a_resolver_can_rest_on_another() -> None:
    resolver = Composed()
    resolver.set_dependency_specs({"plain": DependencySpec(**spec(Scope))})
    assert resolver.get_or_resolve("o", "g", "a") == ["composed", "o/g/a"]
    assert resolver.get_or_resolve("o", "g") == ["composed", f"o/g/{GUILD_GLOBAL}"]
    assert resolver.get_or_resolve("o") == ["composed", f"o/{ORG_GLOBAL}/{ORG_GLOBAL}"]
    strict = Composed("int")
    strict.set_dependency_specs({"plain": DependencySpec(**spec(Scope))})
    with pytest.raises(AgentError, match="'plain' is a str, not a int"):
        strict.get_or_resolve("o", "g", "a")


def test_a_class_lists_what_its_handlers_ask_for() -> None:
    assert [found.variable_name for found in Needs.list_all_dependencies()] == ["plain", "guildwide", "o"]
    assert Agent.list_all_dependencies() == []


def test_an_agent_without_an_organization_says_so_in_both_ways() -> None:
    agent, _ = build(NeedsAsync, dependency_map={"plain": spec(Scope)})
    with pytest.raises(NoOrganizationError, match="organization_id") as caught:
        agent.get_organization()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, AgentError)


def test_who_builds_the_agent_can_say_the_organization() -> None:
    own = agent_spec("tests.guild.sample_agents.Reply")
    agent = build_agent(
        guild_spec(own, properties={"organization_id": "of the guild"}),
        own,
        client_factory=FakeClient,
        generator=GENERATOR,
        organization_id="given",
    )
    assert agent.get_organization() == "given"


def test_secrets_come_from_the_most_specific_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = EnvSecretProvider("o", "g", "a")
    for name in ("KEY", "O_KEY", "O_G_KEY", "O_G_A_KEY"):
        monkeypatch.setenv(name, f"of {name}")
        assert provider.get_secret("key") == f"of {name}"
    monkeypatch.setenv("O_G_A_KEY", "")
    assert provider.get_secret("Key") == "of O_G_KEY"
    assert provider.get_secret("none_such") is None
    monkeypatch.setenv("G_A_KEY", "without an organization")
    assert EnvSecretProvider("", "g", "a").get_secret("key") == "without an organization"


def test_the_built_in_secrets_answer_to_their_name_and_no_value_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("API_KEY", "s3cret-value")
    caplog.set_level(logging.DEBUG)
    agent, client = build(NeedsSecrets, dependency_map={"secrets": {"class_name": THEIR_SECRETS}})
    assert agent._on_message(message()) == "error"
    assert "s3cret-value" not in caplog.text
    assert "s3cret-value" not in "".join(sent.to_json() for sent in client.published)
    assert "s3cret-value" not in repr(vars(agent._dependency_resolvers["secrets"]))


def test_resolvers_without_an_init_of_ours_work() -> None:
    assert Scope("p").get_or_resolve("o", "g", "a") == "po/g/a"
    assert Scope.get_qualified_class_name() == class_name(Scope)
