"""The cursor is on a row, not at a place."""

from hypothesis import given
from hypothesis import strategies as st

from preble.tui import columns as col
from preble.tui.query import parse
from preble.tui.rows import Rows, SortBy, shared_out

Pair = tuple[str, float | None]


def table(*rows: Pair, sort: tuple[SortBy, ...] = ()) -> Rows[Pair]:
    columns = [col.text("name", "name", 5, lambda row: row[0]), col.number("load", "load", 5, lambda row: row[1])]
    made = Rows(columns, lambda row: row[0], sort)
    made.replace(rows)
    return made


def test_columns_share_the_room_that_is_left():
    columns = [col.text(f"{most}", "", 5, lambda row: row[0], widest=most) for most in (0, 8, 30, 30)]

    def widths(spare):
        return [width for _, width in shared_out(columns, spare)]

    assert widths(0) == [5, 5, 5, 5]
    assert widths(6) == [5, 7, 7, 7]
    assert widths(13) == [5, 8, 10, 10]
    assert widths(100) == [5, 8, 30, 30]


def test_the_cursor_goes_with_its_row():
    rows = table(("a", 1), ("b", 2), ("c", 3))
    rows.put_on("c")
    rows.sort_by("load")
    assert (rows.cursor, rows.index) == ("c", 0)
    rows.replace([("a", 9), ("b", 2), ("c", 3), ("d", 5)])
    assert (rows.cursor, rows.index) == ("c", 2)
    rows.replace([("c", 3), ("d", 5)])
    assert (rows.cursor, rows.index) == ("c", 1)


def test_if_its_row_is_gone_it_stays_at_the_place_and_says_so():
    rows = table(("a", 1), ("b", 2), ("c", 3))
    rows.put_on("b")
    rows.replace([("a", 1), ("c", 3)])
    assert (rows.cursor, rows.cursor_lost) == ("c", "b")
    rows.replace([("a", 1)])
    assert rows.cursor == "a"
    rows.move_by(1)
    assert rows.cursor_lost is None


def test_a_row_that_comes_back_to_an_empty_table_has_the_cursor_again():
    rows = table(("a", 1), ("b", 2))
    rows.put_on("b")
    rows.replace([])
    assert rows.current is None
    rows.replace([("a", 1), ("b", 2)])
    assert rows.cursor == "b"


def test_unknown_values_come_last_either_way():
    rows = table(("a", None), ("b", 2), ("c", 3))
    rows.sort_by("load")
    assert [name for name, _ in rows.shown] == ["c", "b", "a"]
    rows.sort_by("load")
    assert [name for name, _ in rows.shown] == ["b", "c", "a"]


def test_equal_rows_are_sorted_by_the_next_column():
    rows = table(("b", 1), ("a", 1), ("c", 2))
    rows.sort_by("load")
    rows.sort_by("name", add=True)
    assert [name for name, _ in rows.shown] == ["c", "b", "a"]
    assert rows.sort == (SortBy("load", True), SortBy("name", True))


def test_marks_go_with_their_rows():
    rows = table(("a", 1), ("b", 2), ("c", 3))
    rows.put_on("b")
    rows.mark()
    rows.replace([("b", 2), ("c", 3)])
    assert rows.chosen() == [("b", 2)]
    rows.replace([("c", 3)])
    assert rows.marked == set()


def test_a_filter_hides_and_gives_back():
    rows = table(("a", 1), ("b", 2))
    rows.query = parse("load>1", rows.names)
    rows.refresh()
    assert [name for name, _ in rows.shown] == ["b"]
    assert rows.total == 2


ROWS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 5)), unique_by=lambda row: row[0])
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("rows"), ROWS),
        st.tuples(st.just("sort"), st.sampled_from(["name", "load"])),
        st.tuples(st.just("move"), st.integers(-9, 9)),
    ),
    max_size=30,
)


@given(CHANGES)
def test_whatever_happens_the_cursor_leaves_its_row_only_if_that_is_gone_or_somebody_moves_it(changes):
    rows = table(("a", 1), ("b", 2))
    for kind, what in changes:
        before = rows.cursor
        if kind == "rows":
            rows.replace(what)
        elif kind == "sort":
            rows.sort_by(what)
        else:
            rows.move_by(what)
        if kind != "move" and (not rows.shown or any(name == before for name, _ in rows.shown)):
            assert rows.cursor == before
        if rows.shown:
            assert rows.current is not None
            assert rows.current[0] == rows.cursor
