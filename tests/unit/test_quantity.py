"""Kubernetes quantities."""

from __future__ import annotations

import pytest

from pytest_vmscale.quantity import amount


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("100m", 0.1),
        ("1500m", 1.5),
        ("2", 2.0),
        ("1e3", 1e3),
        ("4k", 4e3),
        ("4G", 4e9),
        ("1.5Ki", 1536),
        ("2Mi", 2 << 20),
        ("0.5Gi", 1 << 29),
        ("1Ei", 1 << 60),
    ],
)
def test_an_amount(text, number):
    assert amount(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "G", "4 Gigs", "1.2.3", "-1", "4g"])
def test_what_is_none(text):
    with pytest.raises(ValueError, match="is no quantity"):
        amount(text)
