"""Rows of Arrow batches as Python objects, none of them beyond the limit of a row.

Columns repeat a value for next to nothing: a text of ten megabytes in a dictionary is any number of
rows in a Parquet file of two kilobytes, and a list of a hundred million gaps is one row. What a row
would come to is counted before anything is made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medunlearn_client.records.fields import bad_row
from medunlearn_client.records.record import InvalidRecord

Sizes = npt.NDArray[np.int64]

_VALUE_BYTES = 8
"""Of every value, beside a text's characters."""


def bounded_rows(
    batch: pa.RecordBatch, *, schema: pa.Schema, max_row_bytes: int
) -> Iterator[dict[str, Any] | InvalidRecord]:
    """Yields each row as an object, or that it is too long.

    Args:
        batch: Texts that repeat as dictionaries, or they are in memory many times already.
        schema: Of the rows: the batch's own, less such dictionaries.
        max_row_bytes: Of a row's texts and, at 8 bytes each, its values.

    Raises:
        pa.ArrowException: The batch is damaged, or a column of a type that cannot be counted.
    """
    sizes = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        sizes += _sizes(column)
    ends, start = np.cumsum(sizes), 0
    while start < batch.num_rows:
        if sizes[start] > max_row_bytes:
            yield bad_row("ROW_TOO_LONG", f"the row is longer than {max_row_bytes} bytes")
            start += 1
            continue
        # No more rows at once than one may be long.
        limit = ends[start] - sizes[start] + max_row_bytes
        stop = int(np.searchsorted(ends, limit, side="right"))
        some = batch.slice(start, stop - start).cast(schema)
        some.validate(full=True)
        yield from _without_artefacts(some).to_pylist()
        start = stop


def _without_artefacts(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Floats of 32 bits as the doubles that are written alike: 5.7, and not 5.699999809265137."""
    for place, field in enumerate(batch.schema):
        if pa.types.is_float32(field.type):
            doubles = batch.column(place).cast(pa.string()).cast(pa.float64())
            batch = batch.set_column(place, field.name, doubles)
    return batch


def _sizes(array: pa.Array) -> Sizes:
    """Bytes of each value, shape ``(len(array),)``; what values share counts for each."""
    kind = array.type
    sizes = np.full(len(array), _VALUE_BYTES, dtype=np.int64)
    if pa.types.is_dictionary(kind):
        return sizes + _numbers(_lengths(array.dictionary).take(array.indices))
    if pa.types.is_struct(kind):
        for field in array.flatten():
            sizes += _sizes(field)
        return sizes
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        offsets = array.offsets.to_numpy()
        if _has_no_text(array.values.type):  # there may be very many, and all have one size
            counts: Sizes = np.diff(offsets).astype(np.int64)
            return sizes + counts * _VALUE_BYTES
        ends = np.concatenate([[0], np.cumsum(_sizes(array.values))])
        inside: Sizes = ends[offsets[1:]] - ends[offsets[:-1]]
        return sizes + inside
    if pa.types.is_fixed_size_list(kind):
        values = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
        sizes += _sizes(values).reshape(len(array), kind.list_size).sum(axis=1)
        return sizes
    return sizes + _numbers(_lengths(array))


def _lengths(array: pa.Array) -> pa.Array:
    """Bytes of each text; a value that is none has none beside its own."""
    if _has_no_text(array.type):
        return pa.repeat(pa.scalar(0, pa.int64()), len(array))
    return pc.binary_length(array)


def _has_no_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind) or pa.types.is_null(kind) or pa.types.is_decimal(kind))


def _numbers(lengths: pa.Array) -> Sizes:
    found: Sizes = lengths.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return found
