"""Kubernetes quantities: parsing, canonical text."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.api import quantity


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0", "0"),
        ("10", "10"),
        ("1000", "1k"),
        ("1024", "1024"),
        ("1Ki", "1Ki"),
        ("1024Ki", "1Mi"),
        ("1000Ki", "1000Ki"),
        ("1.5Gi", "1536Mi"),
        ("0.5Ki", "512"),
        ("0.1Ki", "102400m"),
        ("1.1Ki", "1126400m"),
        ("10M", "10M"),
        ("1000M", "1G"),
        ("100m", "100m"),
        ("1000m", "1"),
        ("0.1", "100m"),
        (".5", "500m"),
        ("5.", "5"),
        ("+5", "5"),
        ("-5", "-5"),
        ("-1.5Ki", "-1536"),
        ("12E6", "12e6"),
        ("12e3", "12e3"),
        ("1E", "1E"),
        ("1Ei", "1Ei"),
        ("1n", "1n"),
        ("0.1n", "1n"),
        ("1e-3", "1e-3"),
        ("100000000000000000000", "100E"),
        ("100Ei", "9223372036854775807"),
        # As the Go library has it: without digits it is 0.
        (".", "0"),
        ("-", "0"),
        ("Gi", "0"),
    ],
)
def test_canonical_text(text, canonical):
    assert str(quantity.parse(text)) == canonical


@pytest.mark.parametrize("text", ["", "1.2.3", "1 Gi", " 1", "1Gi ", "١", "1\n", "1gi", "1ex"])
def test_what_is_no_quantity(text):
    with pytest.raises(ValueError, match="quantities must match the regular expression"):
        quantity.parse(text)


@pytest.mark.parametrize("text", ["1K", "1Kii", "1e", "1k5", "1mi", "--1"])
def test_what_has_no_known_suffix(text):
    with pytest.raises(ValueError, match="unable to parse quantity's suffix"):
        quantity.parse(text)


@pytest.mark.parametrize("text", ["1e30", "1e999", "9" * 40])
def test_what_is_too_large(text):
    with pytest.raises(ValueError, match="larger than"):
        quantity.parse(text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (150754820096, "143771Mi"),
        (40 * 2**30, "40Gi"),
        (0, "0"),
        (1023, "1023"),
        (1000, "1k"),
        (1024, "1Ki"),
        (1500, "1500"),
        (2**60, "1Ei"),
        (7 * 2**50, "7Pi"),
    ],
)
def test_bytes_in_binary_notation(amount, text):
    assert str(quantity.binary(amount)) == text


@given(st.integers(-(2**53), 2**53), st.sampled_from(["", "Ki", "Mi", "n", "u", "m", "k", "M", "e3", "E2"]))
def test_the_canonical_text_means_the_same_and_is_its_own(number, suffix):
    first = quantity.parse(f"{number}{suffix}")
    again = quantity.parse(str(first))
    assert str(again) == str(first)
    assert again.nanos == first.nanos


@given(st.integers(0, 2**62))
def test_bytes_survive_their_text(amount):
    assert quantity.parse(str(quantity.binary(amount))).whole() == amount


@given(
    st.integers(0, 10**6),
    st.text("0123456789", max_size=12),
    st.sampled_from([("", Fraction(1)), ("k", Fraction(1000)), ("m", Fraction(1, 1000)), ("Gi", Fraction(2**30))]),
)
def test_a_fraction_is_rounded_away_from_zero_to_a_billionth(whole, fraction, suffix):
    name, factor = suffix
    exact = Fraction(f"{whole}.{fraction or 0}") * factor * 10**9
    parsed = quantity.parse(f"-{whole}.{fraction}{name}")
    assert -parsed.nanos == -(-exact.numerator // exact.denominator)
