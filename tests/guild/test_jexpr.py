"""Expressions made in Python: what they are written as, and that JSONata makes of them what Python would."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.guild import jx
from rustic_host.guild.builders import RouteBuilder
from rustic_host.guild.expressions import evaluate
from rustic_host.guild.jexpr import JArray, JBool, JExpr, JFn, JNull, JNum, JObj, JStr, JxScript
from rustic_host.messaging import AgentTag, FunctionalTransformer, PayloadTransformer
from tests.guild.bus import build, class_name, message
from tests.guild.sample_agents import Ask, Reply

ORDER: dict[str, Any] = {
    "customer": "Ada Lovelace",
    "express": False,
    "odd name": 7,
    "and": 8,
    "items": [
        {"sku": "tea", "price": 3, "count": 4},
        {"sku": "cup", "price": 12, "count": 1, "tags": ["blue"]},
        {"sku": "pot", "price": 30, "count": 1},
    ],
}
ITEMS = JExpr("items")


def value(expression: JExpr) -> Any:
    return evaluate("jsonata", expression.serialize(), ORDER)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (JExpr("customer"), "Ada Lovelace"),
        (JExpr("$").customer, "Ada Lovelace"),
        (JExpr("$")["odd name"], 7),
        (JExpr("$")["and"], 8),
        (ITEMS[1].sku, "cup"),
        (ITEMS[-1].sku, "pot"),
        (ITEMS.filter(JExpr("price") > 10).sku, ["cup", "pot"]),
        (ITEMS[JExpr("tags")].sku, "cup"),
        (ITEMS.filter((JExpr("price") > 10).and_(JExpr("price") < 20)).sku, "cup"),
        (ITEMS.order_by(JExpr("sku")).sku, ["cup", "pot", "tea"]),
        (ITEMS[1].wildcard(), ["cup", 12, 1, "blue"]),
        (ITEMS[0].descendants(), [ORDER["items"][0], "tea", 3, 4]),
        (JExpr.range(1, ITEMS[0].price), [1, 2, 3]),
        (JExpr("$")["odd name"] + 1, 8),
        (10 - JExpr("and") * 2, -6),
        (2 + JExpr("and") / 4 - 1, 3),
        (3 * JExpr("and"), 24),
        (16 / JExpr("and"), 2),
        (17 % JExpr("and"), 1),
        (JExpr("and") % 3, 2),
        (-JExpr("$")["odd name"], -7),
        (JExpr("1 + 1") * 2, 4),
        (JExpr("customer") & "!", "Ada Lovelace!"),
        ("Dear " & JExpr("customer"), "Dear Ada Lovelace"),
        (JExpr("customer") == "Ada Lovelace", True),
        (JExpr("customer") != "Ada Lovelace", False),
        (JExpr("2") >= 2, True),
        (JExpr("2") <= 1, False),
        (JNum(5) > JNum(3), True),
        (JExpr("express").or_(True), True),
        (JExpr("2").in_([1, 2]), True),
        (JStr("$x"), "$x"),
        (JBool(True), True),
        (JArray([1, JExpr("express"), None]), [1, False, None]),
        (JObj({"a": JExpr("customer"), "b": {"c": [1]}}), {"a": "Ada Lovelace", "b": {"c": [1]}}),
        (jx.sum(ITEMS.price), 45),
        (jx.sum(jx.map(ITEMS, lambda item: item.price * item.count)), 54),
        (jx.count([1, 2]), 2),
        (jx.uppercase(jx.substringBefore(JExpr("customer"), " ")), "ADA"),
        (jx.not_(JExpr("express")), True),
        (jx.exists(JExpr("nothing")), False),
        (jx.match("hello", "/l+/").match, "ll"),
        (jx.replace("a.b", ".", "-"), "a-b"),
        (jx.merge({"a": 1}, {"b": JExpr("and")}), {"a": 1, "b": 8}),
        (jx.merge([{"a": 1}, {"b": 2}]), {"a": 1, "b": 2}),
        (jx.zip(ITEMS.sku, [1, 2, 3]), [["tea", 1], ["cup", 2], ["pot", 3]]),
        (jx.filter([1, 2, 3, 4], lambda n: n % 2 == 0), [2, 4]),
        (jx.reduce([1, 2, 3], lambda total, n: total + n, 10), 16),
        (jx.each({"a": 1}, lambda content, key: {"k": key, "v": content}), {"k": "a", "v": 1}),
        (jx.sift({"a": 1, "b": 2}, JFn(["n"], JExpr("$n") > 1)), {"b": 2}),
        (jx.ternary(JExpr("express"), "now", "later"), "later"),
        (jx.ternary(True, jx.ternary(False, 1, 2), 3), 2),
        (jx.ternary(True, "a", "b") & "!", "a!"),
        (jx.ternary(True, {"n": 1}, {}).n, 1),
        (JxScript(jx.assign("n", 5), "$m := $n + 1", JExpr("$m * 2")), 12),
        (JxScript(jx.assign("$f", lambda x: x * 42), "$f(2)"), 84),
        (JxScript(jx.assign("$n", 1), JxScript(jx.assign("$n", 2)), "$n") + 1, 2),
    ],
    ids=str,
)
def test_an_expression_means_what_python_would_mean(expression: JExpr, expected: Any) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(
    ("expression", "source"),
    [
        (JxScript(), "()"),
        (JxScript("$sum(a.b)", JExpr("c > 1")), "($sum(a.b); c > 1)"),
        (JxScript(jx.assign("$a", 5)).append(jx.assign("$b", "x")), '($a := 5; $b := "x")'),
        (jx.ternary(JExpr("$x") > JExpr("$y"), "more", "$y"), '($x > $y) ? "more" : $y'),
        (jx.ternary(JExpr("$a") + JExpr("$b") > 20, "High", "Low"), '(($a + $b) > 20) ? "High" : "Low"'),
        (JFn(["$x", "y"], JExpr("$x") + JExpr("$y")), "function($x, $y){ ($x + $y) }"),
        (jx.sum("$numbers"), "$sum($numbers)"),
        (jx.map([1, 2], lambda x: x * 2), "$map([1, 2], function($x){ ($x * 2) })"),
        (jx.assign("$user", {"name": "é", "ok": True, "no": None}), '$user := {"name": "é", "ok": true, "no": null}'),
        (JExpr("$data") == JNull(), "(null = $data)"),
        (jx.now(), "$now()"),
    ],
    ids=str,
)
def test_expressions_are_written_as_rustic_ai_writes_them(expression: JExpr, source: str) -> None:
    assert expression.serialize() == str(expression) == source


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text().filter(lambda text: "\x00" not in text),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(ANY_JSON)
def test_a_value_is_itself(given_value: Any) -> None:
    expression = JObj({"v": JArray([_literal(given_value)])})
    assert evaluate("jsonata", expression.serialize(), {}) == {"v": [given_value]}


def _literal(given_value: Any) -> Any:
    """The value with its texts marked to be texts, whatever they begin with."""
    if isinstance(given_value, str):
        return JStr(given_value)
    if isinstance(given_value, list):
        return [_literal(item) for item in given_value]
    if isinstance(given_value, dict):
        return {key: _literal(item) for key, item in given_value.items()}
    return given_value


def test_what_is_no_expression_is_refused() -> None:
    with pytest.raises(TypeError, match="neither JSONata nor"):
        JxScript(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no truth yet"):
        assert JExpr("a") == "b"
    with pytest.raises(TypeError, match="not JSON serializable"):
        JExpr(object())
    with pytest.raises(ValueError, match="Out of range float"):
        JNum(float("inf"))
    with pytest.raises(ValueError, match=r"use jx\.lookup"):
        JExpr("a")["`"]
    with pytest.raises(AttributeError, match="no function 'uppercas'; did you mean `uppercase`"):
        jx.uppercas("a")
    with pytest.raises(TypeError, match="unhashable"):
        hash(JExpr("a"))


def test_what_python_looks_for_is_no_field() -> None:
    assert copy.deepcopy(JExpr("a.b")).serialize() == "a.b"
    assert repr(JExpr("a")) == "JExpr('a')"
    assert not hasattr(JExpr("a"), "__json__")


def test_routes_take_them() -> None:
    script = JxScript(JObj({"topics": jx.ternary(JExpr("payload").n > 10, "many", "few")}))
    rule = RouteBuilder(AgentTag(name="A1")).set_functional_transformer(script).set_route_times(-1).build()
    assert isinstance(rule.transformer, FunctionalTransformer)
    agent, client = build(Reply, guild={"routes": {"steps": [json.loads(rule.model_dump_json())]}})
    for n in (1, 11):
        agent._on_message(message(payload={"n": n}, format=class_name(Ask)))
    assert [sent.topics for sent in client.published] == ["few", "many"]


def test_a_single_expression_is_taken_too() -> None:
    rule = RouteBuilder(AgentTag(name="A1")).set_payload_transformer(None, JObj({"n": JExpr("n") + 1})).build()
    assert isinstance(rule.transformer, PayloadTransformer)
    assert rule.transformer.expression == '{"n": (n + 1)}'
