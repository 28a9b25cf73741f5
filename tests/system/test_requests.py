"""``rustic-host send`` that waits for the reply, and that can be repeated."""

import json
from pathlib import Path

from tests.system.demo import demo_host, messages
from tests.system.test_specs import echo_guild


def test_a_command_waits_for_its_reply_and_a_key_makes_it_repeatable(tmp_path: Path) -> None:
    with demo_host([echo_guild(tmp_path, "g")]) as host:
        host.start()
        reply = json.loads(host.cli("send", "g", "default_topic", '{"text": "hi"}', "--wait").stdout)
        assert (reply["payload"], reply["sender"]["name"]) == ({"text": "hi"}, "Echo")
        assert reply["topic_published_to"] == "reply_inbox:rustic-host"
        routed = host.cli("send", "g", "default_topic", '{"text": "ho"}', "--wait", "20", "--reply-on", "out")
        assert json.loads(routed.stdout)["payload"] == {"text": "ho"}
        nobody = host.cli("send", "g", "unread", '{"text": "hi"}', "--wait", "0.3", check=False)
        assert (nobody.returncode, nobody.stdout) == (124, "")
        assert "no reply to message" in nobody.stderr
        lines = "".join(json.dumps({"n": n}) + "\n" for n in range(5))
        for _ in range(2):
            host.cli("send", "g", "default_topic", "--file", "-", "--key", "today", stdin=lines)
        host.cli("send", "g", "default_topic", "--file", "-", "--key", "today", stdin=lines + '{"n": "more"}\n')
        arrived = messages(host, "g", "out", count=7)
        assert [row["payload"] for row in arrived] == [{"text": "ho"}, *({"n": n} for n in range(5)), {"n": "more"}]
        host.cli("send", "g", "default_topic", '{"n": 0}', "--key", "tomorrow")
        assert len(messages(host, "g", "out", count=8)) == 8
