"""Parsers under damaged input: read, or refused as what it is; never anything else."""

from hypothesis import given, HealthCheck, seed, settings
from hypothesis import strategies as st
import pytest
from support.fuzz import damaged, PARSERS, survives


@pytest.mark.parametrize('name', PARSERS)
def test_whole_inputs_are_read(name, tmp_path):
    assert survives(name, PARSERS[name][1], tmp_path)


@pytest.mark.parametrize('name', PARSERS)
def test_damaged_inputs_are_read_or_refused(name, tmp_path_factory):
    folder = tmp_path_factory.mktemp('fuzz')

    @seed(1)
    @settings(
        max_examples=150,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def fuzz(data):
        survives(name, data.draw(damaged(PARSERS[name][1])), folder)

    fuzz()
