"""The units of a packet against a split by a regular expression."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decode._headers import nal_units

# Noise that holds start codes, and the beginnings of some.
PIECES = st.sampled_from([b"\0\0\1", b"\0\0\0\1", b"\0", b"\0\0", b"\1", b"\x65", b"\x41abc", b"x" * 20])
DATA = st.lists(PIECES, max_size=40).map(b"".join)


@given(DATA)
def test_units_stand_between_start_codes(data: bytes) -> None:
    assert list(nal_units(data, 0)) == re.split(b"\0\0\1", data)[1:]


@given(DATA, st.integers(3, 30))
def test_beginnings_of_units_are_those_of_the_whole_ones(data: bytes, most_bytes: int) -> None:
    assert list(nal_units(data, 0, most_bytes)) == [unit[:most_bytes] for unit in nal_units(data, 0)]


@pytest.mark.parametrize("length_bytes", [1, 2, 4])
@given(units=st.lists(st.binary(min_size=1, max_size=40), max_size=8), most_bytes=st.integers(3, 50))
def test_units_behind_their_length(length_bytes: int, units: list[bytes], most_bytes: int) -> None:
    data = b"".join(len(unit).to_bytes(length_bytes, "big") + unit for unit in units)
    assert list(nal_units(data, length_bytes)) == units
    assert list(nal_units(data, length_bytes, most_bytes)) == [unit[:most_bytes] for unit in units]
