"""Row groups of foreign Parquet files, read with a limit on the memory that they take.

What a file says of its own size is what is written in it: a text that is repeated a million times stands in it once. So the
sizes of numbers follow from how many there are, and texts are read in batches that are counted.
"""

import io
from collections.abc import Sequence
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...tokenizers.budget import check_bytes

WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
BATCH = 256          # rows that are read before they are counted
REPEATED = 100       # a row group that is read row by row may be larger than the limit, unless it repeats this much


def read_group(file: pq.ParquetFile, number: int, columns: Sequence[str] | None = None) -> pa.Table:
    """A row group as a table.

    Raises:
        ValueError: it would take more than the limit, or has fewer or more rows than the file's footer says.
    """
    table = _read(file, number, columns)
    if table.num_rows != (said := file.metadata.row_group(number).num_rows):
        raise ValueError(f"{table.num_rows} rows, the file's footer says {said}")
    return table


def _read(file: pq.ParquetFile, number: int, columns: Sequence[str] | None) -> pa.Table:
    group = described_group(file, number)
    what = f"row group {number}"
    check_bytes(numbers_bytes(group, columns), what)
    texts = [chunk for chunk in chunks(group, columns) if chunk.physical_type not in WIDTHS]
    if not any("RLE_DICTIONARY" in chunk.encodings or "PLAIN_DICTIONARY" in chunk.encodings for chunk in texts):
        check_bytes(sum(chunk.total_uncompressed_size for chunk in texts), what)
        return file.read_row_group(number, columns=columns)
    batches, total = [], 0
    for batch in file.iter_batches(BATCH, row_groups=[number], columns=columns):
        total += sum(map(expanded_bytes, batch.columns))
        check_bytes(total, what)
        batches.append(batch)
    schema = batches[0].schema if batches else None
    return pa.Table.from_batches(batches, schema) if batches else file.read_row_group(number, columns=columns)


def described_group(file: pq.ParquetFile, number: int) -> pq.RowGroupMetaData:
    """What the footer says of a row group, whose columns may be asked for.

    `RowGroupMetaData.column` ends the process where a column's description contradicts itself: pyarrow (26.0) does not expect
    that C++ call to fail. A reader does, so one that gets no data is asked first.

    Raises:
        OSError: it does; pa.ArrowException is one of its kinds.
    """
    nothing = pa.PythonFile(_Nothing(), mode="r")
    with pq.ParquetFile(nothing, metadata=file.metadata, buffer_size=4096) as reader, suppress(_Asked):
        next(reader.iter_batches(1, row_groups=[number], use_threads=False), None)
    return file.metadata.row_group(number)


class _Asked(Exception):
    """Data were asked for: all columns are described."""


class _Nothing(io.RawIOBase):
    """A file that is as long as any and gives nothing."""

    place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file; its end is farther than any footer says."""
        self.place = offset + (0, self.place, 1 << 62)[whence]
        return self.place

    def read(self, size: int = -1) -> bytes:
        raise _Asked


def expanded_bytes(column: pa.Array) -> int:
    """Memory of a column when every row has a text of its own: a dictionary holds equal ones once."""
    if not isinstance(column, pa.DictionaryArray):
        return column.nbytes
    values = column.dictionary
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_binary(values.type)):
        return column.nbytes + 8 * len(column)
    return pc.sum(pc.take(pc.binary_length(values), column.indices)).as_py() or 0


def check_repeats(file: pq.ParquetFile, columns: Sequence[str]) -> None:
    """For groups that are read row by row: raise ValueError where one is larger than the limit because it repeats itself."""
    for number in range(file.metadata.num_row_groups):
        group = described_group(file, number)
        held = sum(chunk.total_compressed_size for chunk in chunks(group, columns))
        if (needed := numbers_bytes(group, columns)) > REPEATED * held:
            check_bytes(needed, f"row group {number}")


def numbers_bytes(group: pq.RowGroupMetaData, columns: Sequence[str] | None) -> int:
    """Memory of the numbers in a row group, those in lists too."""
    return sum(chunk.num_values * WIDTHS.get(chunk.physical_type, 0) for chunk in chunks(group, columns))


def chunks(group: pq.RowGroupMetaData, columns: Sequence[str] | None) -> list[pq.ColumnChunkMetaData]:
    """The chunks of some columns, and of what is inside them; None: of all."""
    found = [group.column(index) for index in range(group.num_columns)]
    return [chunk for chunk in found if columns is None or chunk.path_in_schema.partition(".")[0] in columns]
