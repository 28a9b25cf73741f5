"""What `start` can be told, and what it makes of it."""

import re

import click
import pytest
from click.testing import CliRunner

from rustic_host.cli.start import _settings, start
from rustic_host.host.settings import Settings

RETENTION = {
    "--retention-seconds": 90.0,
    "--retention-entries": 200,
    "--retention-bytes": 2 << 20,
    "--dead-letter-seconds": 120.0,
    "--client-seconds": 7200.0,
}


def name_of(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def test_retention_is_set_by_options_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in RETENTION:
        monkeypatch.setenv(f"RUSTIC_HOST_{name_of(option).upper()}", "99999999")
    given = [word for option, value in RETENTION.items() for word in (option, str(value))]
    params = start.make_context("start", [*given, "guild.yaml"]).params
    settings = _settings({name_of(option): params[name_of(option)] for option in RETENTION})
    assert tuple(settings.bounds) == tuple(RETENTION.values())


@pytest.mark.parametrize("option", RETENTION)
def test_an_option_below_its_least_is_refused_and_the_help_says_the_default(option: str) -> None:
    result = CliRunner().invoke(start, [option, "1", "guild.yaml"])
    assert result.exit_code == 2
    assert option in result.output
    text = CliRunner().invoke(start, ["--help"], terminal_width=200).output
    default = re.search(rf"{option} .*\[default: ([0-9]+)", text)
    assert default
    assert float(default[1]) == Settings.model_fields[name_of(option)].default


@pytest.mark.parametrize("option", RETENTION)
def test_the_least_of_an_option_is_that_of_the_setting(option: str) -> None:
    (found,) = (each for each in start.params if option in each.opts)
    assert isinstance(found.type, click.IntRange | click.FloatRange)
    (least,) = Settings.model_fields[name_of(option)].metadata
    assert found.type.min == least.ge
