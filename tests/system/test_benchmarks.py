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
