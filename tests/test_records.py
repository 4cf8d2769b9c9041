"""Contract: a table leaves a stage with exactly the declared columns, or an error names those that do not fit."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest

from ram_ray.records import ANNOTATION, PARSED, REASONS, REJECTED, SAMPLE, Reject, conform, to_table

ROW = {"key": "a/1", "shard": "a", "uri": "a.tar", "offset": 512, "nbytes": 9, "width": 4, "height": 5}


def test_rows_become_a_table_of_the_schema_and_missing_columns_null() -> None:
    table = to_table([{**ROW, "captions": ["x"], "labels": []}, ROW], SAMPLE)
    assert table.schema == SAMPLE
    assert table["labels"].to_pylist() == [[], None], "labelled with nothing is not the same as not labelled"
    assert table["reason"].to_pylist() == [None, None]
    assert to_table([], ANNOTATION).schema == ANNOTATION


def test_an_undeclared_column_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="'colour'.*records.py"):
        to_table([{**ROW, "colour": "red"}], SAMPLE)


def test_conform_orders_casts_and_drops() -> None:
    table = to_table([{**ROW, "captions": ["x"]}], SAMPLE).append_column("extra", pa.array([1]))
    shuffled = table.select(sorted(table.column_names))
    wider = shuffled.set_column(shuffled.schema.get_field_index("width"), "width", shuffled["width"].cast(pa.int64()))
    assert conform(wider, SAMPLE).equals(table.drop(["extra"]))


def test_conform_names_what_is_missing_or_does_not_fit() -> None:
    with pytest.raises(ValueError, match="'parsed'.* are missing"):
        conform(to_table([ROW], SAMPLE), PARSED)
    text = to_table([{"key": "a", "detail": "b"}], REJECTED)
    words = text.set_column(0, "offset", pa.array(["not a number"])).select(["offset"])
    with pytest.raises(ValueError, match="does not fit"):
        conform(words, pa.schema([("offset", pa.int64())]))


def test_every_annotation_row_has_its_location_and_reason() -> None:
    for schema in (SAMPLE, PARSED, ANNOTATION):
        assert {"key", "shard", "uri", "offset", "nbytes", "reason", "detail"} <= set(schema.names)
    assert REJECTED.names == ["key", "shard", "stage", "reason", "detail"]


def test_a_rejection_has_a_fixed_reason_and_a_bounded_detail() -> None:
    reject = Reject("truncated", "x" * 10_000)
    assert reject.reason in REASONS and len(reject.detail) == 500
    with pytest.raises(AssertionError):
        Reject("ugly")  # type: ignore[arg-type]


def test_a_rejection_can_be_pickled() -> None:
    copy = pickle.loads(pickle.dumps(Reject("too_small", "3 x 4")))
    assert (copy.reason, copy.detail) == ("too_small", "3 x 4")
