"""A guild at work is hurt in every way; nothing is lost, nothing comes twice. ``scripts/chaos`` is the longer form."""

from pathlib import Path

import pytest

from tests.chaos.plan import CLUSTER_DECK, DECK
from tests.chaos.run import RATE, run_chaos
from tests.messaging.conftest import binary_of

SHORT = [kind for kind in DECK if kind not in ("twin", "second_host")]
"""Once each; a twin and a second host take a start of Python each, and have their turn in the long form."""

ALLOWED_SECONDS = 30.0
"""Recovery on a machine that runs other tests too; quiet ones need a tenth of it."""


@pytest.mark.parametrize("flavour", ["valkey", "redis"])
def test_a_fault_of_each_kind(flavour: str) -> None:
    report = run_chaos(len(SHORT), 7, binary_of(flavour), kinds=SHORT, rate=RATE / 2)
    assert report.verdict.wrong == []
    assert (report.faults, report.verdict.lost, report.verdict.doubled) == (len(SHORT), 0, 0)
    assert report.messages > 1000
    assert report.worst < ALLOWED_SECONDS


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("flavour", ["valkey", "redis"])
def test_a_fault_of_each_kind_on_a_cluster(flavour: str, tmp_path: Path) -> None:
    kinds = [*CLUSTER_DECK]
    report = run_chaos(len(kinds), 7, binary_of(flavour), kinds=kinds, rate=RATE / 4, keep=tmp_path, cluster=True)
    assert report.verdict.wrong == []
    assert (report.faults, report.verdict.lost, report.verdict.doubled) == (len(kinds), 0, 0)
    assert {*report.recoveries} == {*kinds}
    assert report.messages > 1000
    assert report.worst < ALLOWED_SECONDS


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("flavour", ["valkey", "redis"])
def test_a_hundred_faults(flavour: str, tmp_path: Path) -> None:
    for seed in (100, 101):
        report = run_chaos(50, seed, binary_of(flavour), keep=tmp_path)
        assert report.verdict.wrong == []
        assert report.faults == 50
