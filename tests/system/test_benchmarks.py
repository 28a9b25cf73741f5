"""The benchmarks run: what they measure is not asserted, machines are noisy."""

import re
import subprocess
import sys

from tests.system.operator_files import TOP


def test_throughput_prints_both_rates_and_their_ratio() -> None:
    command = [sys.executable, "benchmarks/throughput.py", "--messages", "300", "--rounds", "1", "--payload", "100"]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=True)
    bare, agent, ratio = re.findall(r"^(?:bare limit|one agent|ratio) +([\d.,]+)", done.stdout, re.MULTILINE)
    assert float(bare.replace(",", "")) > 0
    assert float(agent.replace(",", "")) > 0
    assert float(ratio) > 0


def test_the_cost_of_a_bridge_is_printed_with_and_without() -> None:
    command = [sys.executable, "benchmarks/bridge.py", "--messages", "100", "--rounds", "1", "--payload", "100"]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=True)
    rows = re.findall(r"^(?:ours|theirs), (?:with|without) a bridge +([\d.]+) +([\d.]+) +([\d.]+)$", done.stdout, re.M)
    assert len(rows) == 4
    assert all(float(wall) > 0 for wall, _, _ in rows)
    assert len(re.findall(r"^  \S.* +\d+ bytes a message$", done.stdout, re.M)) == 3


def test_retention_prints_memory_and_its_growth() -> None:
    command = [sys.executable, "-m", "benchmarks.retention", "--entries", "50", "--rounds", "3", "--payload", "100"]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=True)
    assert len(re.findall(r"^ +[123] +[\d,]+ +[\d.]+ ", done.stdout, re.MULTILINE)) == 3
    assert re.search(r"^growth from round 3 on: [+-][\d.]+ %$", done.stdout, re.MULTILINE)
