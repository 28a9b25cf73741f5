import sys
from pathlib import Path

import pytest

from rustic_host.errors import AgentLoadError
from rustic_host.guild.aliases import (
    ALIASES,
    isolated_search_path,
    nearest_class,
    our_name,
    resolve_class,
    search_path,
)

ECHO = "rustic_ai.core.agents.testutils.echo_agent.EchoAgent"


@pytest.fixture(autouse=True)
def _keep_sys_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_names_of_the_table_mean_ours_and_others_themselves() -> None:
    assert our_name(ECHO) == "rustic_host.agents.echo_agent.EchoAgent"
    backend = "rustic_ai.redis.messaging.backend.RedisMessagingBackend"
    assert our_name(backend) == "rustic_host.messaging.RedisMessagingBackend"
    assert our_name("mine.Agent") == "mine.Agent"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("rustic_ai.core.guild.execution.SyncExecutionEngine", "SyncExecutionEngine"),
        ("rustic_ai.core.guild.execution.sync.SyncExecutionEngine", "SyncExecutionEngine"),
        ("rustic_ai.forge.ForgeExecutionEngine", "MultiProcessExecutionEngine"),
        ("rustic_ai.forge.execution_engine.ForgeExecutionEngine", "MultiProcessExecutionEngine"),
    ],
)
def test_an_engine_is_known_by_each_of_its_names(theirs: str, ours: str) -> None:
    assert our_name(theirs) == f"rustic_host.execution.{ours}"


def test_both_paths_of_an_engine_mean_the_same_class() -> None:
    base = "rustic_ai.core.guild.execution.multiprocess"
    names = {our_name(f"{base}.{name}MultiProcessExecutionEngine") for name in ("", "multiprocess_exec_engine.")}
    assert names == {"rustic_host.execution.MultiProcessExecutionEngine"}


def test_every_alias_leads_from_rustic_ai_into_this_package() -> None:
    assert all(theirs.startswith("rustic_ai.") for theirs in ALIASES)
    assert all(ours.startswith("rustic_host.") for ours in ALIASES.values())


def test_a_built_in_agent_is_found_under_the_name_that_specs_use() -> None:
    found = resolve_class(ECHO)
    assert f"{found.__module__}.{found.__qualname__}" == "rustic_host.agents.echo_agent.EchoAgent"


@pytest.mark.parametrize("ours", ["rustic_host.agents.later.C", "rustic_host.agents.C", "rustic_host.later.C"])
def test_what_is_not_built_in_yet_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch, ours: str) -> None:
    monkeypatch.setitem(ALIASES, "rustic_ai.x.C", ours)
    with pytest.raises(AgentLoadError, match=r"`rustic_ai\.x\.C`: its counterpart here, .*, is not built in yet"):
        resolve_class("rustic_ai.x.C")


def test_a_class_is_imported_from_the_folders_asked_for(tmp_path: Path) -> None:
    (tmp_path / "found_in_search.py").write_text("class C: pass\nnot_a_class = 5\n")
    assert resolve_class("found_in_search.C", [tmp_path]).__name__ == "C"
    with pytest.raises(AgentLoadError, match=r"`found_in_search\.not_a_class` is a int; expected a class"):
        resolve_class("found_in_search.not_a_class")
    assert nearest_class("found_in_search.D") is None
    assert nearest_class("found_in_search.CC") == "found_in_search.C"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "ModuleNotFoundError: No module named 'wrong_module'"),
        ("", "AttributeError: module 'wrong_module' has no attribute 'C'"),
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("def", "SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_why_a_class_cannot_be_loaded_and_where_it_was_searched(tmp_path: Path, text: str | None, reason: str) -> None:
    if text is not None:
        (tmp_path / "wrong_module.py").write_text(text)
    with isolated_search_path([tmp_path]), pytest.raises(AgentLoadError) as raised:
        resolve_class("wrong_module.C", [tmp_path])
    assert f"cannot load `wrong_module.C`: {reason}" in str(raised.value)
    assert f"searched {tmp_path}, " in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_rustic_ai_class_that_is_not_ours_is_explained() -> None:
    with pytest.raises(AgentLoadError, match="Rustic AI is not installed, and this class is not one of those built in"):
        resolve_class("rustic_ai.llm_agent.LLMAgent")
    assert nearest_class(ECHO.replace("EchoAgent", "EchoAgnt")) == ECHO


@pytest.mark.parametrize("name", ["Agent", "", ".Agent"])
def test_a_name_without_a_module_is_refused(name: str) -> None:
    with pytest.raises(AgentLoadError, match=r"is not a dotted name; expected `module\.Class`"):
        resolve_class(name)


def test_search_paths_come_first_in_their_order_and_once(tmp_path: Path) -> None:
    search_path([tmp_path / "a", tmp_path / "b"])
    search_path([tmp_path / "a", tmp_path / "b"])
    assert sys.path[:2] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert sys.path.count(str(tmp_path / "a")) == 1


def test_an_isolated_search_forgets_its_modules_and_paths(tmp_path: Path) -> None:
    before = list(sys.path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same_name.py").write_text(f"class C: where = '{name}'")
        with isolated_search_path([tmp_path / name]):
            assert vars(resolve_class("same_name.C"))["where"] == name
    assert sys.path == before
    assert "same_name" not in sys.modules
