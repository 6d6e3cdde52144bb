import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashfold.projections.columns import Columns, Ints


def cells(*rows: int, width: int = 2) -> Ints:
    """Each row is a number and its multiples by 10, 100 …"""
    return np.array([[row * 10**column for row in rows] for column in range(width)], np.int64).reshape(width, -1)


def test_appended_rows_stand_behind_those_there_were() -> None:
    columns = Columns.empty(2).append(cells(1, 2)).append(cells(3))
    assert columns[0].tolist() == [1, 2, 3]
    assert columns[1].tolist() == [10, 20, 30]
    assert (len(columns), columns.width) == (3, 2)


def test_appending_nothing_is_the_same_table() -> None:
    columns = Columns.of(cells(1))
    assert columns.append(cells()) is columns


def test_two_futures_of_one_table_do_not_see_each_other() -> None:
    past = Columns.empty(2).append(cells(1))
    one, other = past.append(cells(2)), past.append(cells(3))
    assert (past[0].tolist(), one[0].tolist(), other[0].tolist()) == ([1], [1, 2], [1, 3])


def test_the_cells_taken_over_are_never_written_behind() -> None:
    taken = cells(1, 2, 3)
    part = Columns.of(taken).part(0, 2)
    assert part.append(cells(9))[0].tolist() == [1, 2, 9]
    assert taken[0].tolist() == [1, 2, 3]


def test_what_is_seen_cannot_be_written() -> None:
    columns = Columns.empty(2).append(cells(1, 2))
    for view in (columns.cells, columns[0]):
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0


def test_parts_count_from_the_first_row_of_their_table() -> None:
    columns = Columns.of(cells(1, 2, 3, 4, 5)).part(1, 5)
    assert columns[0].tolist() == [2, 3, 4, 5]
    assert columns.part(1, 3)[0].tolist() == [3, 4]
    assert columns.part(2, 100)[0].tolist() == [4, 5]
    assert columns.last(2)[0].tolist() == [4, 5]
    assert columns.last(100) is columns


def test_equality_compares_contents_wherever_they_stand() -> None:
    assert Columns.of(cells(1, 2, 3)).part(1, 3) == Columns.of(cells(2, 3))
    assert Columns.of(cells(1)) != Columns.of(cells(2))
    assert Columns.empty(2) != Columns.empty(3)


def test_growing_row_by_row_copies_seldom() -> None:
    columns, buffers = Columns.empty(2), set()
    for row in range(10_000):
        columns = columns.append(cells(row))
        buffers.add(id(columns._buffer))
    assert columns[0].tolist() == list(range(10_000))
    assert len(buffers) < 40


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), max_size=20), st.data())
def test_a_table_is_the_list_of_its_rows(appended: list[list[int]], data: st.DataObject) -> None:
    """A list of rows says what every operation must do; every table made on the way must stay what it was."""
    made: list[tuple[Columns, list[int]]] = [(Columns.empty(1), [])]
    for rows in appended:
        columns, known = made[data.draw(st.integers(0, len(made) - 1))]
        start = data.draw(st.integers(0, len(known)))
        stop = data.draw(st.integers(start, len(known)))
        part, rows_of_part = columns.part(start, stop), known[start:stop]
        made.append((part.append(np.array([rows], np.int64)), rows_of_part + rows))
    for columns, known in made:
        assert columns[0].tolist() == known
        assert Columns.from_bytes(1, columns.to_bytes()) == columns


INT64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-3, 300))


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(INT64, min_size=width, max_size=width), min_size=1)))
def test_a_table_is_read_back_from_its_bytes_whatever_its_columns_reach_over(rows: list[list[int]]) -> None:
    table = Columns.of(np.array(rows, np.int64).T)
    assert Columns.from_bytes(table.width, table.to_bytes()) == table


def test_a_column_takes_as_many_bytes_as_it_reaches_over() -> None:
    table = Columns.of(np.array([range(100), range(2**40, 2**40 + 100_000, 1_000), [-5] * 100]))
    assert len(table.to_bytes()) == 3 * 9 + 100 * (1 + 3 + 1)


@pytest.mark.parametrize(
    "spoiled",
    [
        b"\0",  # no least
        b"\0" * 18,  # cells of no bytes
        b"\0" * 16 + b"\1\x09" + b"\0" * 10,  # of nine
        b"\0" * 16 + b"\2\1" + b"\0" * 4,  # a row that is torn
    ],
)
def test_bytes_that_are_no_table_are_refused(spoiled: bytes) -> None:
    with pytest.raises(ValueError, match="no table of 2 columns"):
        Columns.from_bytes(2, spoiled)
