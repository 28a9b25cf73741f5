"""From the dotted names in a spec to classes.

Specs name classes of Rustic AI. Those that we have too stand in one table and always mean ours, also where Rustic AI
is installed: its classes are made for its engine and cannot run in this one. A spec itself is never rewritten.
"""

import contextlib
import difflib
import importlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rustic_host.errors import AgentLoadError

_AGENTS = "rustic_ai.core.agents"
_BACKENDS = "rustic_ai.core.messaging.backend"
_CLIENTS = "rustic_ai.core.messaging.client"
_DEPENDS = "rustic_ai.core.guild.agent_ext.depends"
_ENGINES = "rustic_ai.core.guild.execution"
_PROCESSES = "rustic_host.execution.MultiProcessExecutionEngine"
_THREADS = "rustic_host.execution.MultiThreadedEngine"
_SYNC = "rustic_host.execution.SyncExecutionEngine"
_ENV_SECRETS = "rustic_host.guild.secrets.EnvSecretProviderDependencyResolver"
_MEMORY = "rustic_host.messaging.InMemoryMessagingBackend"
_REDIS = "rustic_host.messaging.RedisMessagingBackend"


def _of_clients(module: str, *names: str) -> dict[str, str]:
    """From the module that has them, and from the package that shows them too."""
    places = (f"{_CLIENTS}.{module}", _CLIENTS)
    return {f"{place}.{name}": f"rustic_host.messaging.{name}" for place in places for name in names}


ALIASES: dict[str, str] = {
    f"{_AGENTS}.eip.basic_wiring_agent.BasicWiringAgent": "rustic_host.agents.basic_wiring_agent.BasicWiringAgent",
    f"{_AGENTS}.eip.splitter_agent.SplitterAgent": "rustic_host.agents.splitter_agent.SplitterAgent",
    f"{_AGENTS}.eip.aggregating_agent.AggregatingAgent": "rustic_host.agents.aggregating_agent.AggregatingAgent",
    f"{_AGENTS}.testutils.echo_agent.EchoAgent": "rustic_host.agents.echo_agent.EchoAgent",
    f"{_AGENTS}.testutils.probe_agent.ProbeAgent": "rustic_host.agents.probe_agent.ProbeAgent",
    f"{_AGENTS}.testutils.probe_agent.EssentialProbeAgent": "rustic_host.agents.probe_agent.EssentialProbeAgent",
    f"{_AGENTS}.utils.user_proxy_agent.UserProxyAgent": "rustic_host.agents.user_proxy_agent.UserProxyAgent",
    "rustic_ai.core.guild.g2g.gateway_agent.GatewayAgent": "rustic_host.agents.gateway_agent.GatewayAgent",
    "rustic_ai.core.guild.g2g.envoy_agent.EnvoyAgent": "rustic_host.agents.envoy_agent.EnvoyAgent",
    "rustic_ai.redis.messaging.backend.RedisMessagingBackend": _REDIS,
    f"{_BACKENDS}.InMemoryMessagingBackend": _MEMORY,
    f"{_BACKENDS}.in_memory_backend.InMemoryMessagingBackend": _MEMORY,
    f"{_CLIENTS}.simple_client.SimpleClient": "rustic_host.messaging.SimpleClient",
    f"{_CLIENTS}.SimpleClient": "rustic_host.messaging.SimpleClient",
    f"{_CLIENTS}.message_tracking_client.MessageTrackingClient": "rustic_host.messaging.MessageTrackingClient",
    f"{_CLIENTS}.MessageTrackingClient": "rustic_host.messaging.MessageTrackingClient",
    **_of_clients("retrying_client", "RetryingClient"),
    **_of_clients(
        "pipes", "PipelineClient", "FilteringClient", "TransformingClient", "ThrottlingClient", "LoggingClient"
    ),
    f"{_ENGINES}.sync.SyncExecutionEngine": _SYNC,
    f"{_ENGINES}.sync.sync_exec_engine.SyncExecutionEngine": _SYNC,
    f"{_ENGINES}.multithreaded.MultiThreadedEngine": _THREADS,
    f"{_ENGINES}.multithreaded.multithreaded_exec_engine.MultiThreadedEngine": _THREADS,
    f"{_ENGINES}.multiprocess.MultiProcessExecutionEngine": _PROCESSES,
    f"{_ENGINES}.multiprocess.multiprocess_exec_engine.MultiProcessExecutionEngine": _PROCESSES,
    f"{_DEPENDS}.secrets.env_secret_provider.EnvSecretProviderDependencyResolver": _ENV_SECRETS,
    f"{_ENGINES}.SyncExecutionEngine": _SYNC,
    "rustic_ai.forge.ForgeExecutionEngine": _PROCESSES,
    "rustic_ai.forge.execution_engine.ForgeExecutionEngine": _PROCESSES,
    "rustic_ai.ray.RayExecutionEngine": "rustic_host.execution.RayExecutionEngine",
}


def our_name(dotted: str) -> str:
    """Return the name of our class for one of Rustic AI's; any other name as it is."""
    return ALIASES.get(dotted, dotted)


def resolve_class(dotted: str, search: Sequence[Path] = ()) -> type:
    """Import the class that a spec names; ``search`` are folders to look in first, put on ``sys.path`` to stay.

    Raises AgentLoadError that says the name, Python's error and where was searched.
    """
    found = resolve_name(dotted, search)
    if not isinstance(found, type):
        raise AgentLoadError(f"`{dotted}` is a {type(found).__name__}; expected a class")
    return found


def resolve_name(dotted: str, search: Sequence[Path] = ()) -> Any:
    """Import whatever a spec names, a function for instance; otherwise as :func:`resolve_class`."""
    search_path(search)
    module_name, _, class_name = our_name(dotted).rpartition(".")
    if not module_name:
        raise AgentLoadError(f"`{dotted}` is not a dotted name; expected `module.Class`")
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (Exception, SystemExit) as error:
        raise AgentLoadError(_reason(dotted, error, search)) from error


def _reason(dotted: str, error: BaseException, search: Sequence[Path]) -> str:
    ours = ALIASES.get(dotted)
    if ours and _is_absent(ours, error):
        return f"cannot load `{dotted}`: its counterpart here, `{ours}`, is not built in yet"
    said = " ".join(f"{type(error).__name__}: {error}".split())
    absent = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "rustic_ai"
    hint = "; Rustic AI is not installed, and this class is not one of those built in here" if absent else ""
    places = ", ".join(str(path) for path in _searched(search))
    return f"cannot load `{dotted}`: {said}{hint}; searched {places}"


def _is_absent(ours: str, error: BaseException) -> bool:
    if isinstance(error, ModuleNotFoundError):
        return bool(error.name) and ours.startswith(f"{error.name}.")
    return isinstance(error, AttributeError) and error.name == ours.rpartition(".")[2]


def _searched(search: Sequence[Path]) -> list[Path]:
    """List the folders that were searched: those asked for, then the interpreter's own, without its library."""
    library = Path(contextlib.__file__).parent
    asked = [path.absolute() for path in search]
    others = [Path(entry).absolute() for entry in sys.path if entry and not entry.endswith(".zip")]
    return list(dict.fromkeys(asked + [path for path in others if path not in (library, library / "lib-dynload")]))


def search_path(paths: Iterable[Path]) -> None:
    """Make the folders importable, the first one first, before all else; once each, for the life of the process."""
    wanted = [str(path.absolute()) for path in paths]
    if sys.path[: len(wanted)] == wanted:
        return
    sys.path[:] = wanted + [entry for entry in sys.path if entry not in wanted]
    importlib.invalidate_caches()


@contextlib.contextmanager
def isolated_search_path(paths: Sequence[Path]) -> Iterator[None]:
    """Make the folders importable for a while; what was imported from them is forgotten afterwards.

    So one run can check specs whose folders hold different modules of the same name.
    """
    entries, before = list(sys.path), set(sys.modules)
    search_path(paths)
    try:
        yield
    finally:
        sys.path[:] = entries
        for name in set(sys.modules) - before:
            if _is_below(getattr(sys.modules[name], "__file__", None), paths):
                del sys.modules[name]


def _is_below(file: str | None, paths: Sequence[Path]) -> bool:
    return file is not None and any(Path(file).absolute().is_relative_to(path.absolute()) for path in paths)


def nearest_class(dotted: str) -> str | None:
    """Find the class that a wrong name may mean: one in the same module, or one that is built in."""
    module_name, _, class_name = our_name(dotted).rpartition(".")
    module = sys.modules.get(module_name)
    names = [name for name, value in vars(module).items() if isinstance(value, type)] if module else []
    close = difflib.get_close_matches(class_name, names, n=1)
    if close:
        return f"{module_name}.{close[0]}"
    near = difflib.get_close_matches(dotted, ALIASES, n=1, cutoff=0.85)
    return near[0] if near and near[0] != dotted else None
