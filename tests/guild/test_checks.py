from pathlib import Path

import pytest

from rustic_host.guild.loader import check_guild

SPECS = Path(__file__).parents[2] / "../shared/specs"
ECHO = "rustic_ai.core.agents.testutils.echo_agent.EchoAgent"
HEAD = "id: g\nname: G\ndescription: d\n"
AGENTS = f"""agents:
  - {{id: alpha, name: Alpha, description: d, class_name: {ECHO}, additional_topics: [in_topic]}}
  - {{id: beta, name: Beta, description: d, class_name: {ECHO}}}
"""
TEN_MISTAKES = f"""id: my guild
name: Ten Mistakes
description: ""
agents:
  - id: a
    name: Alpha
    description: first
    class_nme: {ECHO}
    listen_to_default_topic: sometimes
  - id: a
    name: Beta
    description: second
    class_name: nowhere.to.be.Found
    additional_topics: in_topic
  - id: c
    name: A name that goes on and on until it is longer than the sixty-four characters allowed
    description: third
    class_name: {ECHO}
routes:
  steps:
    - agent: {{name: Alfa}}
      destination: {{topics: in_topc, priority: 12}}
      transformer:
        expression: "{{'a': (b}}"
      route_times: often
"""


def rows(folder: Path, text: str, name: str = "guild.yaml") -> list[str]:
    path = folder / name
    path.write_text(text)
    return [str(problem).replace(f"{folder}/", "") for problem in check_guild(path, environ={})]


def test_ten_mistakes_and_more_are_ten_rows_and_more_in_one_run_by_place(tmp_path: Path) -> None:
    found = rows(tmp_path, TEN_MISTAKES)
    expected = [
        "guild.yaml:1:5: error: `id`: a guild id has no",
        "guild.yaml:3:14: error: `description` is an empty text; expected at least 1 character",
        "guild.yaml:8:5: error: unknown key `class_nme`; expected `class_name`",
        "guild.yaml:9:30: error: `agents[0].listen_to_default_topic` is the text 'sometimes'; expected true or false",
        "guild.yaml:10:9: error: duplicate agent id `a`; it is already in guild.yaml on line 5",
        "guild.yaml:13:17: error: cannot load `nowhere.to.be.Found`: ModuleNotFoundError",
        "guild.yaml:14:24: error: `agents[1].additional_topics` is the text 'in_topic'; expected a list",
        "guild.yaml:16:11: error: `agents[2].name` is the text 'A name that goes on and on until it is l…'",
        "guild.yaml:21:21: warning: `routes.steps[0].agent.name`: no agent of this spec has the name `Alfa`",
        "guild.yaml:22:29: warning: `routes.steps[0].destination.topics`: no agent of this spec reads the topic",
        "guild.yaml:22:48: error: `routes.steps[0].destination.priority` is the number 12; expected 0, 1, 2",
        "guild.yaml:24:21: error: `routes.steps[0].transformer.expression`: not a JSONata expression: Expected ), got",
        "guild.yaml:25:20: error: `routes.steps[0].route_times` is the text 'often'; expected a whole number",
    ]
    assert [row for row, start in zip(found, expected, strict=True) if not row.startswith(start)] == []


def test_a_good_spec_has_no_problems(tmp_path: Path) -> None:
    routes = "routes:\n  steps:\n    - {agent: {name: Alpha}, destination: {topics: [in_topic, 'agent_inbox:beta']}}\n"
    extras = "guild_state: {}\nconfiguration_schema: {}\n"
    assert rows(tmp_path, HEAD + AGENTS + routes + extras) == []


def marked(text: str) -> tuple[str, str]:
    """A text without the `^` that marks a place in it, and that place as `line:column`."""
    before, mark, after = text.partition("^")
    place = f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}" if mark else ""
    return before + after, place


ROUTE_MISTAKES = [
    (
        "agent: {name: ^Alhpa}",
        "warning: `routes.steps[0].agent.name`: no agent of this spec has the name `Alhpa` (did you mean `Alpha`?)",
    ),
    (
        "agent: {id: ^zzz}",
        "warning: `routes.steps[0].agent.id`: no agent of this spec has the id `zzz`; expected one of `alpha`, `beta`",
    ),
    ("agent_type: ^a.b.EchoAgent", "warning: `routes.steps[0].agent_type`: no agent of this spec is a `a.b.EchoAgent`"),
    (
        "agent: {name: Beta}, origin_filter: {origin_sender: {name: ^Bet}}",
        "warning: `routes.steps[0].origin_filter.origin_sender.name`: no agent of this spec has the name `Bet` "
        "(did you mean `Beta`?)",
    ),
    (
        "agent: {name: Beta}, destination: {recipient_list: [{id: ^betta}]}",
        "warning: `routes.steps[0].destination.recipient_list[0].id`: no agent of this spec has the id `betta` "
        "(did you mean `beta`?)",
    ),
    (
        "agent: {name: Beta}, destination: {topics: ^'agent_inbox:betta'}",
        "warning: `routes.steps[0].destination.topics`: no agent of this spec has the inbox `agent_inbox:betta` "
        "(did you mean `agent_inbox:beta`?)",
    ),
    (
        "agent: {name: Beta}, destination: {topics: [in_topic, ^in_topik]}",
        "warning: `routes.steps[0].destination.topics[1]`: no agent of this spec reads the topic `in_topik` "
        "(did you mean `in_topic`?)",
    ),
    (
        "agent: {name: Beta}, transformer: {handler: ^'$sum('}",
        "error: `routes.steps[0].transformer.handler`: not a JSONata expression: Expected ) before end of expression "
        "(S0203 at character 5): $sum(",
    ),
    (
        "agent: {name: Beta}, transformer: {handler: ^5}",
        "error: `routes.steps[0].transformer.handler` is the number 5; expected a text",
    ),
    (
        "agent: {name: Beta}, transformer: {^handler: a, output_format: b}",
        "warning: `routes.steps[0].transformer.handler` is not read, "
        "because `expression` or `output_format` is there too",
    ),
    (
        "agent: {name: Beta}, guild_state_update: {state_update: ^'}'}",
        "error: `routes.steps[0].guild_state_update.state_update`: not a JSONata expression: "
        "The symbol } cannot be used as a unary operator (S0211 at character 1): }",
    ),
    (
        "agent: {name: Beta}, transformer: {expression: a, expression_type: ^jsonatta}",
        "error: `routes.steps[0].transformer.expression_type` is the text 'jsonatta'; expected 'jsonata' or 'cel' "
        "(did you mean `jsonata`?)",
    ),
    (
        "agent: {name: Beta}, destination: {^topic: in_topic}",
        "warning: unknown key `topic` in routes.steps[0].destination (did you mean `topics`?)",
    ),
    (
        "agent: {name: Beta}, process_status: ^don",
        "error: `routes.steps[0].process_status` is the text 'don'; expected 'running', 'error' or 'completed'",
    ),
    (
        "agent: {name: Beta}, destination: {topics: ^5}",
        "error: `routes.steps[0].destination.topics` is the number 5; expected a text or a list",
    ),
]


@pytest.mark.parametrize(("step", "row"), ROUTE_MISTAKES)
def test_what_a_route_can_have_wrong(tmp_path: Path, step: str, row: str) -> None:
    text, place = marked(HEAD + AGENTS + f"routes: {{steps: [{{{step}}}]}}\n")
    assert rows(tmp_path, text) == [f"guild.yaml:{place}: {row}"]


@pytest.mark.parametrize("rest", ["", "agent: {}", "agent: null, mark_forwarded: true"])
def test_a_route_of_nobody_is_one_row(tmp_path: Path, rest: str) -> None:
    text, place = marked(HEAD + AGENTS + f"routes: {{steps: [^{{{rest}}}]}}\n")
    row = f"guild.yaml:{place}: error: `routes.steps[0]`: a routing rule needs an agent or an agent_type"
    assert rows(tmp_path, text) == [row]


@pytest.mark.parametrize(
    "step",
    [
        "agent_type: '*.EchoAgent'",
        "agent_type: rustic_ai.core.agents.utils.user_proxy_agent.UserProxyAgent",
        "agent: {name: Beta}, destination: {topics: [error_topic, 'user_notifications:joe', heartbeat]}",
        "agent: {name: Beta, id: null}, destination: {topics: default_topic, priority: 0}",
    ],
)
def test_what_a_route_can_have_right(tmp_path: Path, step: str) -> None:
    assert rows(tmp_path, HEAD + AGENTS + f"routes: {{steps: [{{{step}}}]}}\n") == []


def test_routes_without_steps_say_where_the_list_belongs(tmp_path: Path) -> None:
    found = rows(tmp_path, HEAD + "routes:\n  - agent: {name: A}\n")
    assert found == ["guild.yaml:5:3: error: `routes` is a list; expected a mapping (put the list under `steps`)"]


@pytest.mark.parametrize(
    ("keys", "row"),
    [
        ("name: Alpha", "error: duplicate agent name `Alpha`; it is already in guild.yaml on line 5"),
        ("class_name: rustic_ai.core.agents.testutils.echo_agent.EchoAgnt", f"(did you mean `{ECHO}`?)"),
        ("class_name: rustic_host.agents.echo_agent.Echoagent", "agents.echo_agent.EchoAgent`?)"),
        ("class_name: pathlib.Path", "error: `pathlib.Path` is no agent; expected a subclass of"),
        ("properties: {a: 1}", "error: `EchoAgent` takes no properties; expected none"),
        ("descripton: d", "warning: unknown key `descripton` in agents[1] (did you mean `description`?)"),
        ("qos: {latency: soon}", "error: `agents[1].qos.latency` is the text 'soon'; expected a whole number"),
        ("predicates: {on: {expression: '('}}", "error: `agents[1].predicates.on.expression`: not a JSONata"),
        ("predicates: {on: {predicate_type: jsn, expression: a}}", "expected `predicate_type` to be 'jsonata_fn'"),
        ("dependency_map: {llm: {properties: {}}}", "missing key `class_name` in agents[1].dependency_map.llm"),
    ],
)
def test_what_an_agent_can_have_wrong(tmp_path: Path, keys: str, row: str) -> None:
    agent = {"name": "Other", "description": "d", "class_name": ECHO}
    agent.pop(keys.split(":")[0], None)
    text = ", ".join([*(f"{key}: {value}" for key, value in agent.items()), keys])
    found = rows(tmp_path, HEAD + AGENTS.split("  - {id: beta")[0] + f"  - {{{text}}}\n")
    assert len(found) == 1, found
    assert row in found[0]
    assert found[0].startswith("guild.yaml:6:")


def test_each_language_is_checked_as_itself(tmp_path: Path) -> None:
    def of(expression: str, language: str) -> list[str]:
        transformer = f"{{expression: '{expression}', expression_type: {language}}}"
        return rows(
            tmp_path, HEAD + AGENTS + f"routes: {{steps: [{{agent: {{name: Alpha}}, transformer: {transformer}}}]}}\n"
        )

    # "==" and "has" are CEL only, "=" is JSONata only.
    assert of("has(a.b) && a.b == 1", "cel") == of("a = 1", "jsonata") == []
    (row,) = of("a = 1", "cel")
    assert ": error: " in row
    assert "not a CEL expression" in row
    assert ": error: " in of("has(a.b) && a.b == 1", "jsonata")[0]


def test_processes_cannot_share_memory(tmp_path: Path) -> None:
    settings = """properties:
  execution_engine: rustic_ai.core.guild.execution.multiprocess.MultiProcessExecutionEngine
  messaging:
    backend_module: rustic_ai.core.messaging.backend
    backend_class: InMemoryMessagingBackend
"""
    assert [row[:23] for row in rows(tmp_path, HEAD + settings)] == ["guild.yaml:8:20: error:"]
    other = settings.replace("multiprocess.MultiProcess", "sync.Sync")
    assert rows(tmp_path, HEAD + other) == []


def test_whether_others_are_heard_is_one_of_three_words(tmp_path: Path) -> None:
    for word in ("auto", "on", "off", "'on'"):  # YAML reads two of them as true and false
        assert rows(tmp_path, HEAD + f"properties: {{interop: {word}}}\n") == []
    text, place = marked(HEAD + "properties: {interop: ^maybe}\n")
    assert rows(tmp_path, text) == [f"guild.yaml:{place}: error: interop is 'maybe'; it must be auto, on or off"]


def test_an_unknown_variable_is_said_where_it_stands(tmp_path: Path) -> None:
    agents = AGENTS.replace("description: d", "description: ^'x{{ topik }}'", 1)
    text, place = marked(HEAD + "configuration: {topic: t}\n" + agents)
    assert rows(tmp_path, text) == [
        f"guild.yaml:{place}: warning: unknown variable `topik`, filled in as nothing; "
        "expected a key of `configuration` (did you mean `topic`?)"
    ]


AGENT_WITH_PROPERTIES = """
from rustic_host.guild.agent import Agent
from rustic_host.guild.dsl import BaseAgentProps
class Props(BaseAgentProps):
    limit: int
    label: str = ""
class Limited(Agent[Props]):
    pass
"""


@pytest.mark.parametrize(
    ("properties", "row"),
    [
        ("{limit: 3}", None),
        ("{limit: ^few}", "error: `agents[0].properties.limit` is the text 'few'; expected a whole number"),
        ("{^lable: x, limit: 3}", "warning: unknown key `lable` in agents[0].properties (did you mean `label`?)"),
        ("^{}", "error: missing key `limit` in agents[0].properties; expected a value"),
    ],
)
def test_properties_are_checked_against_the_class(tmp_path: Path, properties: str, row: str | None) -> None:
    (tmp_path / "own_agents.py").write_text(AGENT_WITH_PROPERTIES)
    agent = f"{{name: A, description: d, class_name: own_agents.Limited, properties: {properties}}}"
    text, place = marked(HEAD + f"agents: [{agent}]\n")
    assert rows(tmp_path, text) == ([] if row is None else [f"guild.yaml:{place}: {row}"])


def test_a_part_that_cannot_be_read_is_one_row_and_the_rest_is_checked(tmp_path: Path) -> None:
    text = HEAD + "agents: [!include none.yaml]\nroutes: {steps: [{agent: {name: Nobody}, route_times: x}]}\n"
    found = rows(tmp_path, text)
    assert [row.split(": ")[0] for row in found] == ["guild.yaml:4:10", "guild.yaml:5:55"]


@pytest.mark.parametrize(
    ("name", "errors"),
    [
        ("001_point_to_point.yaml", 0),
        ("003_content_based_router.yaml", 0),
        ("005_message_translator_payload.yaml", 0),
        ("modular_guild/guild.yaml", 0),
        ("test_guild_with_variables.yaml", 1),
    ],
)
def test_real_specs_have_no_errors_but_a_class_that_is_not_there(name: str, errors: int) -> None:
    if not SPECS.is_dir():
        pytest.skip("the folder of real specs, ../shared/specs, is not there")
    found = [str(problem) for problem in check_guild(SPECS / name, environ={}) if problem.severity == "error"]
    assert len(found) == errors
    assert all("cannot load `guild.simple_agent.SimpleAgentWithProps`" in row for row in found)


AGENT_WITH_DEPENDENCIES = """
from rustic_host.guild import Agent, DependencyResolver, processor
from rustic_host.messaging import JsonDict
class Words(DependencyResolver):
    def resolve(self, org_id, guild_id, agent_id):
        return []
class Writer(Agent):
    @processor(JsonDict, depends_on=["words"])
    def write(self, ctx, words):
        pass
"""
GOOD = "{class_name: own_agents.Words}"


@pytest.mark.parametrize(
    ("guild", "agent", "row"),
    [
        (f"{{words: {GOOD}}}", "", None),
        ("{}", f", dependency_map: {{words: {GOOD}}}", None),
        (
            f"{{wrods: {GOOD}}}",
            "",
            "5:43: error: nothing provides the dependency 'words'; there is `wrods` (did you mean `wrods`?)",
        ),
        (
            f"{{words: {GOOD}}}",
            ", additional_dependencies: [words, ^more]",
            "error: nothing provides the dependency 'more'; there is `words`",
        ),
        (
            f"{{words: {GOOD}}}",
            ", additional_dependencies: [^'a:b:c']",
            "error: `agents[0].additional_dependencies[0]`: 'a:b:c' is no dependency; expected `key`, `key:variable` "
            "or `key:variable:guild|org`",
        ),
        ("{words: {class_name: ^nowhere.Words}}", "", "error: cannot load `nowhere.Words`: ModuleNotFoundError"),
        (
            f"{{words: {GOOD}, more: {{class_name: ^nowhere.M}}}}",
            "",
            "warning: cannot load `nowhere.M`: ModuleNotFound",
        ),
        (
            "{words: {class_name: ^own_agents.Writer}}",
            "",
            "error: dependency 'words': own_agents.Writer is no DependencyResolver",
        ),
    ],
)
def test_dependencies_are_checked_against_the_class_and_imported(
    tmp_path: Path, guild: str, agent: str, row: str | None
) -> None:
    (tmp_path / "own_agents.py").write_text(AGENT_WITH_DEPENDENCIES)
    agents = f"agents:\n  - {{name: A, description: d, class_name: own_agents.Writer{agent}}}\n"
    text, place = marked(f"{HEAD}{agents}dependency_map: {guild}\n")
    found = rows(tmp_path, text)
    assert len(found) == (row is not None)
    if row is not None:
        assert found[0].startswith(f"guild.yaml:{place}: {row}" if place else f"guild.yaml:{row}")


def test_the_file_of_dependencies_is_checked_for_who_needs_it(tmp_path: Path) -> None:
    (tmp_path / "own_agents.py").write_text(AGENT_WITH_DEPENDENCIES)
    path = tmp_path / "guild.yaml"
    path.write_text(f"{HEAD}agents:\n  - {{name: A, description: d, class_name: own_agents.Writer}}\n")
    file = tmp_path / "dependencies.yaml"
    environ = {"RUSTIC_AI_DEPENDENCY_CONFIG": str(file)}
    file.write_text("words: {class_name: own_agents.Words}\n")
    assert check_guild(path, environ=environ) == []
    file.write_text("more: {class: x}\nwords: {class_name: own_agents.Word}\n")
    found = [(row.file, row.line, row.column, row.severity) for row in check_guild(path, environ=environ)]
    assert found == [(str(file), 1, 8, "error"), (str(file), 2, 21, "error")]
    path.write_text(HEAD + AGENTS)
    assert check_guild(path, environ=environ) == []
