import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.errors import RoutingError
from rustic_host.guild.cel import CelExpression
from rustic_host.guild.expressions import Limits, compile_expression, evaluate
from rustic_host.messaging import RoutingRule, RoutingSlip
from tests.guild.bus import build, class_name, message
from tests.guild.sample_agents import Ask, Reply, Scripted

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip

ORDERS = [{"n": 1, "to": "a"}, {"n": 5, "to": "b"}]
DATA = {"orders": ORDERS, "limit": 2.5, "id": 2**63 + 5}


@given(JSON)
def test_a_value_comes_back_equal_as_plain_json_and_is_not_shared(value: Any) -> None:
    result = evaluate("cel", "x", {"x": value})
    assert result == value
    assert repr(result) == repr(value)
    assert not isinstance(value, dict | list) or result is not value


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("orders.filter(o, o.n > 2).map(o, o.to)", ["b"]),
        ("orders.exists(o, o.to == 'b') && orders.all(o, o.n > 0)", True),
        ("{'first': orders[0], 'size': size(orders), 'none': null}", {"first": ORDERS[0], "size": 2, "none": None}),
        ("has(orders[0].n) && !has(orders[0].m)", True),
        ("orders[0].n < limit ? 'small' : 'large'", "small"),
        ("(1 + 2) * -(3)", -9),
        ("id == 9223372036854775813u", True),
        ("{2: 'a', true: b'abc'}", {"2": "a", "true": "YWJj"}),
        ("[timestamp('2020-01-01T00:00:00Z'), duration('3s')]", ["2020-01-01T00:00:00Z", "3s"]),
        ("'abc'.matches('^a.c$') && 'abc'.startsWith('ab')", True),
        ("1 / 0 == 1 || true", True),
        ("[[1, 2], [3]].map(x, x.map(y, y + orders[0].n))", [[2, 3], [4]]),
        (".limit", 2.5),
    ],
)
def test_expressions(source: str, expected: Any) -> None:
    result = evaluate("cel", source, DATA)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    "source",
    ["n > 2.5", "n == 3.0", "n != 'a'", "3.0 in l", "m == {'a': [1.0]}", "n >= 3u", "!(true == 1)", "'a' in m"],
)
def test_numbers_compare_across_their_types_and_other_types_are_unequal(source: str) -> None:
    assert evaluate("cel", source, {"n": 3, "l": [1, 3], "m": {"a": [1]}}) is True


def test_names_that_no_expression_can_say_are_left_alone() -> None:
    assert evaluate("cel", "a.b", {"a b": 1, "a.b": 2, "a": {"b": 3}, "": 4}) == 3


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("a +", r"not a CEL expression: syntax error at line 1, column 3: a \+"),
        ("", "not a CEL expression: syntax error"),
        ("a = 1", "not a CEL expression"),
        ("a.uppercase()", "CEL has no function `uppercase`"),
        ("frobnicate(a)", "CEL has no function `frobnicate`"),
        ("google.protobuf.Int32Value{value: 1}", "no message types here"),
        (" + ".join(["1"] * 5000), "nested too deeply"),
        ("'" + "x" * 70_000 + "'", "an expression of 70002 characters"),
    ],
)
def test_what_cannot_be_compiled_says_why(source: str, reason: str) -> None:
    with pytest.raises(RoutingError, match=reason):
        compile_expression("cel", source)


def test_brackets_and_long_chains_are_not_deep() -> None:
    assert evaluate("cel", "(" * 2000 + "1" + ")" * 2000, {}) == 1
    assert evaluate("cel", " && ".join(["true"] * 300), {}) is True
    assert evaluate("cel", " + ".join(["'ab'"] * 150), {}) == "ab" * 150


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("b", "undeclared reference to 'b'$"),
        ("{'x': 1 / 0}", "divide by zero"),
        ("a.b.c", "no such member in mapping: 'b'"),
        ("a > 'x'", "no matching overload"),
        ("a.map(x, x)[3]", "invalid_argument"),
        ("type(a)", "a type or function"),
        ("1e400", "inf, which JSON cannot hold"),
        ("'x' * 1000000000", "no matching overload"),
        ("'%1000000000d' % 5", "no matching overload"),
        ("a.map(x)", "CEL failed"),
    ],
)
def test_what_fails_says_why_and_shows_no_values(source: str, reason: str) -> None:
    with pytest.raises(RoutingError, match=reason) as caught:
        evaluate("cel", source, {"a": {"hidden": "s3cret"}, "z": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_a_result_or_an_input_that_is_no_object_is_refused_for_what_it_is() -> None:
    with pytest.raises(RoutingError, match="evaluated on an object, not on a list"):
        evaluate("cel", "a", [1])


def test_time_is_bounded_between_steps() -> None:
    expression = CelExpression("l.map(a, l.map(b, l.map(c, l.map(d, l.map(e, e)))))", Limits(milliseconds=50))
    started = time.monotonic()
    with pytest.raises(RoutingError, match="timeout after 50 ms"):
        expression.evaluate({"l": list(range(100))})
    assert time.monotonic() - started < 30


def test_what_additions_make_is_bounded_altogether() -> None:
    doubling = CelExpression("l.reduce(r, i, s, r + r)", Limits(size=1000))
    assert doubling.evaluate({"l": [1] * 7, "s": "ab"}) == "ab" * 128
    for start in ("ab", [1, 2]):
        with pytest.raises(RoutingError, match="more than 1000 characters and items"):
            doubling.evaluate({"l": [1] * 40, "s": start})


def test_one_expression_runs_in_several_threads_at_once_while_others_are_compiled() -> None:
    expression = CelExpression("rows.map(v, v * n).filter(v, v > 0)")
    wrong: list[Any] = []

    def work(n: int) -> None:
        for turn in range(50):
            found = [expression.evaluate({"rows": [1, 2, 3], "n": n}), evaluate("cel", f"{turn} + {n}", {})]
            if found != [[n, 2 * n, 3 * n], turn + n]:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 10, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_each_text_is_compiled_once_and_in_its_own_language() -> None:
    assert compile_expression("cel", "n") is compile_expression("cel", "n")
    assert compile_expression("cel", "n") is not compile_expression("jsonata", "n")
    # The same text means different things: CEL's "=" is no operator, JSONata's "==" neither.
    assert evaluate("cel", "n == 1", {"n": 1}) is True
    assert evaluate("jsonata", "n = 1", {"n": 1}) is True


def test_the_library_is_imported_only_where_there_is_cel() -> None:
    code = "import sys, rustic_host.guild.agent, rustic_host.guild.loader; sys.exit('celpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_evaluating_changes_no_setting_of_the_process() -> None:
    limit = sys.getrecursionlimit()
    evaluate("cel", "1 + 1", {})
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize(
    ("expression", "taken"),
    [
        ("message.payload.n > 2 && agent_state.open", "ok"),
        ("has(guild_state.closed) && guild_state.closed", "unhandled"),
        # Ids are from 2^63 on, where Rustic AI's own predicates fail on every message.
        ("message.id > 9223372036854775807u && message.sender.name == 'Outside'", "ok"),
        ("message.nothing.n > 1", "unhandled"),
    ],
)
def test_predicates_of_the_spec_in_cel(expression: str, taken: str) -> None:
    predicates = {"reply": {"predicate_type": "cel_fn", "expression": expression}}
    agent, _ = build(Reply, predicates=predicates, state={"open": True})
    assert agent._on_message(message(payload={"n": 3}, format=class_name(Ask))) == taken


def test_transformers_and_state_updates_in_cel() -> None:
    cel = {"expression_type": "cel"}
    steps = [
        {
            "transformer": {**cel, "expression": "{'total': a + b}", "output_format": "the.Sum"},
            "destination": {"topics": "sum"},
        },
        {
            "transformer": {**cel, "handler": "{'topics': 'to_' + payload.name, 'payload': {'it': origin.payload.x}}"},
            "agent_state_update": {**cel, "state_update": "{'last': payload.it, 'was': untransformed.payload.name}"},
        },
    ]
    agent, client = build(Scripted)
    assert isinstance(agent, Scripted)
    agent.script = lambda ctx: ctx.send_dict({"a": 1, "b": 2, "name": "z"})
    slip = RoutingSlip(steps=[RoutingRule.model_validate({"agent": {"name": "A1"}, **step}) for step in steps])
    assert agent._on_message(message(payload={"x": 7}, routing_slip=slip)) == "ok"
    first, second = client.published
    assert (first.topics, first.format, first.payload) == ("sum", "the.Sum", {"total": 3})
    assert (second.topics, second.payload) == ("to_z", {"it": 7})
    assert agent.get_agent_state() == {"last": 7, "was": "z"}
