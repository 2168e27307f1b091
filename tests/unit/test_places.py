"""Where images and masks lie in a shard, found when it is written and kept in its footer."""

from __future__ import annotations

import pytest
import xxhash

from prs_med.data.dataset.places import ShardPlaces, dump_places, find_places


def column(*values: bytes) -> bytes:
    """Values as Parquet writes them plainly, behind the header of a page."""
    return b"header" + b"".join(len(v).to_bytes(4, "little") + v for v in values)


def test_places_lead_to_the_values_also_over_pages_and_doubles() -> None:
    images, masks = [b"one", b"", b"two" * 50, b"two" * 50], [b"m", b"m", b"mm"]
    data = column(*images[:3]) + column(*images[3:]) + b"width" + column(*masks) + b"texts"
    file = b"PAR1" + data
    text = dump_places([find_places(data, 4, images, masks)] * 2)
    places = ShardPlaces(text.encode(), [4, 4], [3, 3])
    for number in (0, 1):
        group = places.row_group(number)
        for found, values in ((group.images, images), (group.masks, masks)):
            assert [file[place.start : place.end] for place in found] == values
            assert [place.xxh3 for place in found] == [xxhash.xxh3_64_intdigest(v) for v in values]
            assert all(found[n].holds(value) for n, value in enumerate(values))
            assert not found[0].holds(b"other")
        starts = [place.start for place in (*group.images, *group.masks)]
        assert starts == sorted(set(starts))
        assert file[group.rest.start : group.rest.end].startswith(b"width")
        assert file[group.rest.start : group.rest.end].endswith(b"texts")


def test_what_is_not_there_is_no_place() -> None:
    with pytest.raises(ValueError, match="not found"):
        find_places(column(b"one"), 4, [b"one"], [b"mask"])


def test_places_of_other_row_groups_are_refused() -> None:
    text = dump_places([find_places(column(b"i") + column(b"m"), 4, [b"i"], [b"m"])])
    ShardPlaces(text.encode(), [1], [1])
    with pytest.raises(ValueError, match="3 places rather than 4"):
        ShardPlaces(text.encode(), [1], [2])
    with pytest.raises(ValueError, match="not in base64"):
        ShardPlaces(b"?" + text.encode(), [1], [1])
