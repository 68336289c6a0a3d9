"""Frozen records behave as frozen dataclasses do, for what the runtime asks of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

from harness.container.frozen import EMPTY, Frozen, as_dict, field_names, replace, values

if TYPE_CHECKING:
    from dataclasses import KW_ONLY


class Point(Frozen):
    """A point."""

    x: int
    y: int = 2
    _: KW_ONLY
    names: Mapping[str, str] = EMPTY


def test_values_come_by_position_by_name_or_from_the_default() -> None:
    assert (Point(1).x, Point(1).y, Point(1, y=3).y, Point(x=4).x) == (1, 2, 3, 4)
    assert repr(Point(1)) == "Point(x=1, y=2, names=mappingproxy({}))"


@pytest.mark.parametrize(
    ("given", "named", "why"),
    [
        ((), {}, "Point: missing: x"),
        ((1, 2, {}), {}, "Point: 3 values by position, of 2"),
        ((1,), {"x": 1}, "Point: given twice: x"),
        ((1,), {"z": 1}, "Point: no such field: z"),
    ],
)
def test_what_does_not_fit_is_refused(given: tuple[object, ...], named: dict[str, object], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        Point(*given, **named)  # type: ignore[arg-type]


def test_a_record_does_not_change_and_has_no_other_attributes() -> None:
    point = Point(1)
    for name in ("x", "other"):
        with pytest.raises(AttributeError, match=f"Point.{name}: records do not change"):
            setattr(point, name, 2)
    with pytest.raises(AttributeError, match=r"Point.x: records do not change"):
        del point.x
    assert not hasattr(point, "__dict__")


def test_equality_and_hash_go_by_all_values() -> None:
    class Other(Frozen):
        x: int
        y: int

    class Pair(Frozen):
        x: int
        y: int

    assert Pair(1, 2) == Pair(1, 2)
    assert Pair(1, 2) != Pair(1, 3)
    assert Pair(1, 2) != Other(1, 2)
    assert {Pair(1, 2): "found"}[Pair(1, 2)] == "found"


def test_a_copy_takes_changes_and_the_original_stays() -> None:
    point = Point(1, names={"a": "b"})
    assert replace(point, y=5) == Point(1, 5, names={"a": "b"})
    assert point.y == 2
    with pytest.raises(TypeError, match="no such field: z"):
        replace(point, z=1)


def test_a_record_is_written_by_its_fields() -> None:
    assert field_names(Point) == ("x", "y", "names")
    assert values(Point(1)) == (1, 2, EMPTY)
    written = as_dict(Point(1))
    assert written == {"x": 1, "y": 2, "names": {}}
    assert type(written["names"]) is dict


def test_a_match_takes_it_apart() -> None:
    match Point(1, 3):
        case Point(x, y):
            assert (x, y) == (1, 3)
        case _:
            pytest.fail("no match")
