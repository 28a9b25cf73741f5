"""Two guilds of one host that write to each other: an envoy asks, the other guild's gateway lets in and answers."""

from pathlib import Path

from tests.system.demo import demo_host, messages, written_guild
from tests.system.test_specs import ECHO, send_all

ENVOY = "rustic_ai.core.guild.g2g.envoy_agent.EnvoyAgent"


def buyer(folder: Path) -> Path:
    envoy = {
        "id": "envoy",
        "name": "Envoy",
        "description": "-",
        "class_name": ENVOY,
        "listen_to_default_topic": False,
        "additional_topics": ["orders"],
        "properties": {"target_guild": "seller"},
    }
    gateway = {"input_formats": [], "output_formats": [], "returned_formats": ["*"]}
    spec = {"id": "buyer", "name": "buyer", "description": "-", "agents": [envoy], "gateway": gateway}
    return written_guild(folder, spec, name="buyer")


def seller(folder: Path) -> Path:
    echo = {"id": "echo", "name": "Echo", "description": "-", "class_name": ECHO}
    gateway = {"input_formats": ["*"], "output_formats": ["*"]}
    spec = {"id": "seller", "name": "seller", "description": "-", "agents": [echo], "gateway": gateway}
    return written_guild(folder, spec, name="seller")


def test_an_order_goes_out_and_its_answer_comes_back(tmp_path: Path) -> None:
    with demo_host([buyer(tmp_path), seller(tmp_path)]) as host:
        host.start()
        orders: list[dict[str, object]] = [{"order": number} for number in range(5)]
        send_all(host, "buyer", "orders", *orders)
        answers = messages(host, "buyer", "default_topic", count=len(orders))
        assert [row["payload"] for row in answers] == orders
        processors = [entry["processor"] for entry in answers[0]["message_history"]]
        assert processors[0] == "handle_outbound"
        assert processors[-1] == "handle_returned_response"
        let_in_and_answered = messages(host, "seller", "default_topic", count=2 * len(orders))
        assert sorted(row["payload"]["order"] for row in let_in_and_answered) == sorted([*range(5), *range(5)])
        assert host.status()["guilds"][0]["subscriptions"]["guild_inbox:buyer"] == 1
