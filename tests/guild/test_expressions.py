import itertools
import resource
import signal
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.errors import RoutingError
from rustic_host.guild import expressions
from rustic_host.guild.expressions import JsonataExpression, Limits, TimeLeft, compile_expression, evaluate

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)

RECURSION = "($f := function($n){$n <= 0 ? 0 : 1 + $f($n - 1)}; $f(n))"


@given(st.dictionaries(st.text(min_size=1), JSON, min_size=1, max_size=4))
def test_the_whole_input_comes_back_equal_and_is_not_shared(data: dict[str, Any]) -> None:
    result = evaluate("jsonata", "$", data)
    assert result == data
    assert result is not data


def test_results_are_plain_json() -> None:
    data = {"rows": [{"a": 1}, {"a": None}], "big": 9741187340834975751}
    result = evaluate("jsonata", '{"all": rows.a, "none": null, "gone": nothing, "big": big, "n": [1..3]}', data)
    assert result == {"all": [1, None], "none": None, "big": 9741187340834975751, "n": [1, 2, 3]}
    assert type(result["all"]) is list
    assert evaluate("jsonata", "rows", data) == data["rows"]
    assert evaluate("jsonata", "rows", data)[0] is not data["rows"][0]  # type: ignore[index]
    assert evaluate("jsonata", "nothing", data) is None


def test_a_transform_does_not_change_its_input() -> None:
    data = {"a": {"n": 1}}
    assert evaluate("jsonata", "$ ~> |a|{'n': 2}|", data) == {"a": {"n": 2}}
    assert data == {"a": {"n": 1}}


def test_each_text_is_compiled_once() -> None:
    assert compile_expression("jsonata", "a.b.c") is compile_expression("jsonata", "a.b.c")


def test_time_is_that_of_the_evaluation_also_after_others_were_compiled_and_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1_000_000]
    monkeypatch.setattr("jsonata.timebox.Timebox.current_milli_time", lambda: now[0])
    clock, other = JsonataExpression("[$millis(), $now()]"), JsonataExpression("1")
    first = clock.evaluate({})
    assert first == [1_000_000, "1970-01-01T00:16:40.000Z"]
    # Far more than the time limit later: the limit is of one run, not of the compiled expression's age.
    now[0] += 3_600_000
    other.evaluate({})
    assert clock.evaluate({})[0] == 4_600_000


def test_one_expression_runs_in_several_threads_at_once() -> None:
    expression = JsonataExpression("$sum($map(rows, function($v){$v * n}))")
    wrong: list[Any] = []

    def work(n: int) -> None:
        for _ in range(50):
            result = expression.evaluate({"rows": [1, 2, 3], "n": n})
            if result != 6 * n:
                wrong.append(result)

    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 10, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_endless_expression_is_stopped() -> None:
    expression = JsonataExpression("($f := function($n){$f($n + 1)}; $f(0))", Limits(milliseconds=50))
    started = time.monotonic()
    with pytest.raises(RoutingError, match="timeout after 50 ms of processor time"):
        expression.evaluate({})
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("language", ["jsonata", "cel"])
def test_who_was_stopped_for_a_while_or_waited_for_a_turn_has_not_used_up_its_time(
    language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a message that is well would go to nowhere, because the machine was busy."""
    hours = itertools.count(0.0, 3600.0)
    for clock in ("monotonic", "time"):
        monkeypatch.setattr(time, clock, lambda: next(hours))
    assert evaluate(language, "n + 1 + 1", {"n": 1}) == 3


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals are the main thread's")
def test_the_alarm_of_a_regular_expression_that_had_no_turn_rings_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hours = itertools.count(0.0, 3600.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(hours))
    limits = Limits(milliseconds=100_000)
    with expressions._alarm(limits, TimeLeft(limits)):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.raise_signal(signal.SIGALRM)
        assert 90 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100


def test_too_deep_an_expression_is_stopped_and_works_again_after_that() -> None:
    expression = JsonataExpression(RECURSION, Limits(depth=100))
    with pytest.raises(RoutingError, match="Stack overflow"):
        expression.evaluate({"n": 1000})
    assert expression.evaluate({"n": 5}) == 5


def test_the_default_depth_holds_a_long_chain() -> None:
    chain = " & ".join(['"a"'] * 300)
    assert evaluate("jsonata", chain, {}) == "a" * 300


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("1 +", r"not a JSONata expression: .*S0207 at character 3"),
        ("", "not a JSONata expression"),
        ("(" * 20_000 + "1" + ")" * 20_000, "nested too deeply"),
        ("'" + "x" * 70_000 + "'", "an expression of 70002 characters"),
    ],
)
def test_what_cannot_be_compiled_says_why(source: str, reason: str) -> None:
    with pytest.raises(RoutingError, match=reason):
        compile_expression("jsonata", source)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x > 'a'", "same data type"),
        ("1 / 0", "ZeroDivisionError"),
        ("$error('no such order')", "no such order"),
        ("$sum", "a function, not a JSON value"),
        ("{'f': function($x){$x}}", "function"),
        ("$power(10, 400)", "JSONata failed"),
    ],
)
def test_what_fails_says_why(source: str, reason: str) -> None:
    with pytest.raises(RoutingError, match=reason):
        evaluate("jsonata", source, {"x": 1})


def test_an_unknown_language_names_the_known_ones() -> None:
    with pytest.raises(RoutingError, match=r"no expression language 'lua' here; there is cel, jsonata"):
        evaluate("lua", "a", {})


def test_infinite_numbers_are_refused() -> None:
    with pytest.raises(RoutingError, match="JSON cannot hold"):
        expressions.plain_json({"x": [float("inf")]})


@pytest.mark.parametrize(
    "source",
    [
        "$length($reduce([1..40], function($a, $b){$a & $a}, 'x'))",
        "$count($reduce([1..30], function($a, $b){$append($a, $a)}, [1, 2]))",
        "$length($pad('a', 1000000000))",
        "$length($pad('a', -1000000000))",
        "$sum([1..5000000])",
        "$count([1..2000].($x := $string([1..20000]); 1))",
    ],
)
def test_what_grows_without_bounds_is_stopped_before_it_fills_the_memory(source: str) -> None:
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(RoutingError, match=r"too much|\$pad to -?1000000000|timeout"):
        JsonataExpression(source, Limits(milliseconds=20_000)).evaluate({})
    assert time.process_time() - started < 15
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB


def test_large_values_within_the_limits_are_made() -> None:
    assert JsonataExpression("$length($pad('a', 100000) & $pad('b', 100000))").evaluate({}) == 200_000
    assert JsonataExpression("$count($append([1..70000], [1..70000]))").evaluate({}) == 140_000
    assert JsonataExpression("$pad('a', 3) & $pad(b, 2)").evaluate({}) == "a  "


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals are the main thread's")
@pytest.mark.parametrize(
    "source", ["$match(t, /(a+)+$/)", "$replace(t, /(a|aa)+$/, 'x')", "$eval('$contains(t, /(a+)+$/)')"]
)
def test_a_regular_expression_without_end_is_interrupted(source: str) -> None:
    """In a worker the main thread handles messages; what was set before, a test's own time limit say, is set again."""
    before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0
    with pytest.raises(RoutingError, match=r"longer than 100 ms|D3121"):
        JsonataExpression(source, Limits(milliseconds=100)).evaluate({"t": "a" * 60 + "b"})
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0) == before
    assert JsonataExpression("$match(t, /b/)").evaluate({"t": "abc"}) is not None
