"""Encodings, line ends, quotes, gaps, odd types; files that are no tables, and what their owner is told."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from domains.datasets.profiling import ProfileRun, UnreadableTableError
from domains.datasets.profiling.limits import MAX_COLUMNS, MAX_LINE_BYTES, MAX_NAME_LENGTH

Profile = Callable[[str | bytes], dict[str, Any]]


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    def make(content: str | bytes) -> dict[str, Any]:
        run = ProfileRun(tmp_path)
        run.source.write_bytes(content.encode() if isinstance(content, str) else content)
        found = run.run()
        assert run.fraction == 1.0
        return found

    return make


@pytest.fixture
def refusal(profile: Profile) -> Callable[[str | bytes], str]:
    def make(content: str | bytes) -> str:
        with pytest.raises(UnreadableTableError) as refused:
            profile(content)
        return str(refused.value)

    return make


def column(found: dict[str, Any], number: int = 0) -> dict[str, Any]:
    found_column: dict[str, Any] = found["columns"][number]
    return found_column


# -- text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("näme,n\nGrün,1\n".encode(), "utf-8"),
        (codecs.BOM_UTF8 + "näme,n\nGrün,1\n".encode(), "utf-8"),
        ("näme,n\nGrün,1\n".encode("utf-16"), "utf-16"),
        (codecs.BOM_UTF16_BE + "näme,n\nGrün,1\n".encode("utf-16-be"), "utf-16"),
        ("näme,n\nGrün,1\n".encode("cp1252"), "windows-1252"),
        ("näme,n\nGrün \u2013 5 €,1\n".encode("cp1252"), "windows-1252"),
    ],
)
def test_the_encodings_that_people_use_are_read(profile: Profile, content: bytes, encoding: str) -> None:
    found = profile(content)
    assert found["encoding"] == encoding
    assert column(found)["name"] == "näme"
    assert column(found)["min"].startswith("Grün")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("has_last", [True, False])
def test_every_kind_of_line_end_is_one(profile: Profile, end: str, has_last: bool) -> None:
    found = profile(end.join(["a,b", "1,x", "2,y"]) + (end if has_last else ""))
    assert (found["rows"], column(found)["max"], column(found, 1)["max"]) == (2, 2, "y")


def test_mixed_line_ends_are_read_too(profile: Profile) -> None:
    found = profile('a,b\r\n1,x\n2,"two\r\nlines"\r3,z\n')
    assert (found["rows"], column(found)["max"]) == (3, 3)
    assert {entry["value"] for entry in column(found, 1)["top_values"]} == {"x", "two\nlines", "z"}


@pytest.mark.parametrize("size", [1024 * 1024 - 3, 1024 * 1024 - 2, 1024 * 1024 - 1, 1024 * 1024])
def test_line_ends_and_letters_are_whole_across_blocks(profile: Profile, size: int) -> None:
    # The block of a MiB ends in the middle of a line end, or of a letter of several bytes.
    lines = "a\r\n" + ("x" * 1000 + "\r\n") * 1045
    start = lines + "y" * (size - len(lines) - 1)
    found = profile((start + "ü\r\n" + "z\r\n").encode())
    assert found["rows"] == 1047
    assert column(found)["max"] == "z"


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c"])
def test_other_separators_end_no_line(profile: Profile, letter: str) -> None:
    found = profile(f"name,com{letter}ment,x\n1,a{letter}b,3\n")
    assert (found["rows"], [one["name"] for one in found["columns"]]) == (1, ["name", "com ment", "x"])
    assert column(found, 1)["max"] == f"a{letter}b"


def test_quoted_line_breaks_delimiters_and_quotes_are_part_of_the_value(profile: Profile) -> None:
    found = profile('a,"b\nb"\n"1,5","say ""hi""\n\nthere"\n2,x\n')
    assert found["rows"] == 2
    assert [one["name"] for one in found["columns"]] == ["a", "b b"]
    assert column(found, 1)["min"] == 'say "hi"\n\nthere'


def test_many_quoted_line_breaks_are_counted_as_another_reader_counts_them(profile: Profile) -> None:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["id", "text"])
    for number in range(200_000):
        writer.writerow([number, f'line one of {number},\n"quoted" line two\n' if number % 3 else "plain"])
    content = out.getvalue()
    rows = sum(1 for _ in csv.reader(io.StringIO(content, newline=""))) - 1

    found = profile(content)
    assert found["rows"] == rows == 200_000
    assert (column(found)["min"], column(found)["max"], column(found)["distinct"]) == (0, 199_999, 200_000)
    assert column(found, 1)["top_values"] == [{"value": "plain", "count": 66_667}]


@pytest.mark.parametrize(
    ("delimiter", "name"), [(",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "bar")]
)
def test_the_delimiter_is_found(profile: Profile, delimiter: str, name: str) -> None:
    rows = [["id", "text, with; both", "n"], ["1", "a,b;c", "2.5"], ["2", "d|e", "3"]]
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL).writerows(rows)
    found = profile(out.getvalue())
    assert found["delimiter"] == delimiter
    assert [one["type"] for one in found["columns"]] == ["integer", "text", "number"]


def test_a_table_of_one_column_needs_no_delimiter(profile: Profile) -> None:
    found = profile("n\n1\n2\n")
    assert (found["rows"], found["column_count"], column(found)["max"]) == (2, 1, 2)


# -- names --------------------------------------------------------------------------------------------------


def test_names_that_are_missing_or_the_same_are_told_apart(profile: Profile) -> None:
    found = profile("a,, a ,a_2,a\n1,2,3,4,5\n")
    assert [one["name"] for one in found["columns"]] == ["a", "column_2", "a_2", "a_2_2", "a_3"]


def test_a_first_line_of_numbers_is_a_row(profile: Profile) -> None:
    found = profile("1,2.5\n3,4\n")
    assert (found["rows"], found["has_header"]) == (2, False)
    assert [one["name"] for one in found["columns"]] == ["column_1", "column_2"]


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("lines", "rows", "names"),
    [
        (["", "", "a,b", "1,2", "3,4"], 2, ["a", "b"]),
        (["", "  ", "", "a,b", "1,2", "3,4"], 2, ["a", "b"]),
        (["", "a", "1", "3"], 2, ["a"]),
        (["", '"a', 'x",b', "1,2", "3,4"], 2, ["a x", "b"]),
        (["", "1,2", "3,4"], 2, ["column_1", "column_2"]),
        (["", "1", "3"], 2, ["column_1"]),
        (["", "a,b"], 0, ["a", "b"]),
    ],
)
def test_blank_lines_before_the_table_are_passed_over(
    profile: Profile, mark: bytes, end: str, lines: list[str], rows: int, names: list[str]
) -> None:
    found = profile(mark + end.join(lines).encode())
    assert (found["rows"], [one["name"] for one in found["columns"]]) == (rows, names)
    if rows:
        assert (column(found)["type"], column(found)["max"], column(found)["missing"]) == ("integer", 3, 0)


def test_names_that_look_like_statements_are_only_names(profile: Profile) -> None:
    found = profile('"x\'; DROP TABLE cells; --","c1"" FROM cells"\n1,\'; SELECT 1\n')
    assert [one["name"] for one in found["columns"]] == ["x'; DROP TABLE cells; --", 'c1" FROM cells']
    assert column(found, 1)["min"] == "'; SELECT 1"


def test_a_table_without_rows_is_a_table(profile: Profile) -> None:
    found = profile("a,b\n")
    assert found["rows"] == 0
    assert [one["type"] for one in found["columns"]] == ["empty", "empty"]


# -- types --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "-2", "+3", " 4 ", "0"], "integer"),
        (["999999999999999999", "-999999999999999999"], "integer"),
        (["1", "2.5"], "number"),
        (["1e5", "-.5", "5.", "1E-3"], "number"),
        (["12345678901234567890123"], "integer"),
        (["9" * 38, "-" + "9" * 38], "integer"),
        (["9" * 39], "number"),
        (["007", "008"], "text"),
        (["1", "007"], "text"),
        (["1_000"], "text"),
        (["0x10"], "text"),
        (["1,5"], "text"),
        (["inf", "1"], "text"),
        (["1e999", "1"], "text"),
        (["true", "FALSE", "True"], "boolean"),
        (["true", "yes"], "text"),
        (["2026-01-31", "2026/02/28"], "date"),
        (["2026-02-30", "2026-01-01"], "text"),
        (["2026-01-31 10:00", "2026-01-31T10:00:05.25Z", "2026-01-31 10:00:00+02:00"], "timestamp"),
        (["2026-01-31 25:00"], "text"),
        (["2026-01-31", "2026-01-31 10:00"], "text"),
        (["01/02/2026"], "text"),
        (["x", "1"], "text"),
    ],
)
def test_a_column_has_the_type_that_every_value_has(profile: Profile, cells: list[str], kind: str) -> None:
    rows = "".join(f'"{cell}",-\n' for cell in cells)
    found = column(profile(f"a,b\n{rows}"))
    assert found["type"] == kind
    assert found["missing"] == 0


def test_one_value_of_another_type_far_down_is_seen(profile: Profile) -> None:
    found = profile("a\n" + "1\n" * 20_000 + "x\n" + "1\n" * 20_000)
    assert column(found)["type"] == "text"


@pytest.mark.parametrize("mark", ["", "  ", "NA", "N/A", "null", "NaN", "None", "-", '""'])
def test_marks_for_no_value_are_missing_among_numbers(profile: Profile, mark: str) -> None:
    found = column(profile(f"a,b\n1,x\n{mark},y\n3,z\n"))
    assert (found["type"], found["missing"], found["mean"]) == ("integer", 1, 2)


def test_marks_for_no_value_are_values_in_text(profile: Profile) -> None:
    found = column(profile("country,n\nNA,1\nDE,2\n,3\n"))
    assert (found["type"], found["missing"], found["distinct"]) == ("text", 1, 2)
    assert {"value": "NA", "count": 1} in found["top_values"]


def test_a_column_without_values_is_empty(profile: Profile) -> None:
    found = column(profile("a,b\n,1\nNA,2\n"))
    assert found == {"name": "a", "type": "empty", "missing": 2, "distinct": 0, "top_values": []}


def test_white_space_is_part_of_text(profile: Profile) -> None:
    assert column(profile('a,b\n" x",1\nx,2\n'))["distinct"] == 2


def test_long_integers_are_told_apart_by_every_digit(profile: Profile) -> None:
    ids = [1234567890123456700 + number for number in range(20)]
    found = column(profile("id\n" + "\n".join(map(str, [*ids, ids[7]])) + "\n"))
    assert (found["type"], found["distinct"], found["min"], found["max"]) == ("integer", 20, ids[0], ids[-1])
    assert found["top_values"] == [{"value": ids[7], "count": 2}]
    assert found["mean"] == pytest.approx(ids[0])


def test_long_integers_far_down_are_seen(profile: Profile) -> None:
    found = column(profile("id\n" + "1\n" * 6000 + f"{2**63 - 1}\n{2**63 - 2}\n"))
    assert (found["type"], found["distinct"], found["max"]) == ("integer", 3, 2**63 - 1)


def test_integers_beyond_64_bits_are_told_as_text(profile: Profile) -> None:
    found = column(profile(f"id\n{2**63 - 1}\n{2**63}\n{-(2**63)}\n{-(2**63) - 1}\n1\n"))
    assert (found["min"], found["max"], found["distinct"]) == (str(-(2**63) - 1), str(2**63), 5)
    assert [one["value"] for one in found["top_values"]][1:-1] == [-(2**63), 1, 2**63 - 1]
    assert (found["mean"], found["quantiles"]["p50"]) == (pytest.approx(0, abs=2**12), 1.0)
    assert found["std"] == pytest.approx(2**63)


def test_one_value_has_no_deviation(profile: Profile) -> None:
    found = column(profile("a\n5\n"))
    assert (found["mean"], found["std"], found["quantiles"]["p95"]) == (5.0, None, 5.0)


def test_figures_beyond_floating_point_are_left_out(profile: Profile) -> None:
    found = column(profile("a\n1.7e308\n-1.7e308\n1.7e308\n"))
    assert (found["max"], found["std"]) == (1.7e308, None)


def test_instants_are_told_in_utc(profile: Profile) -> None:
    found = column(profile("t\n2026-01-31 10:00:00+02:00\n2026-01-31T09:30:00Z\n"))
    assert (found["min"], found["max"]) == ("2026-01-31T08:00:00", "2026-01-31T09:30:00")


def test_long_values_are_cut_for_showing_only(profile: Profile) -> None:
    found = column(profile("a\n" + "x" * 5000 + "\n" + "x" * 4999 + "y\n"))
    assert found["distinct"] == 2
    assert found["max_length"] == 5000
    assert found["max"] == "x" * 100 + "…"


def test_large_tables_have_exact_counts_and_near_quantiles(profile: Profile) -> None:
    rows = 150_000
    found = column(profile("n\n" + "\n".join(str(number * 7919 % rows) for number in range(rows)) + "\n"))
    assert (found["distinct"], found["min"], found["max"]) == (rows, 0, rows - 1)
    assert found["mean"] == (rows - 1) / 2
    assert not found["has_exact_quantiles"]
    for share, quantile in zip((0.05, 0.25, 0.5, 0.75, 0.95), found["quantiles"].values(), strict=True):
        assert quantile == pytest.approx(share * rows, abs=0.01 * rows)


# -- no tables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n\n  \n", "empty"),
        (codecs.BOM_UTF8, "empty"),
        (codecs.BOM_UTF8 + b"\r\n", "empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "not text"),
        (b"PK\x03\x04\x14\x00\x06\x00 an Excel file", "not text"),
        (codecs.BOM_UTF32_LE + "a,b\n".encode("utf-32-le"), "not text"),
        ("a,b\n1,2\n".encode("utf-16-le"), "not text"),
        (codecs.BOM_UTF16_LE + b"a\x00,", "not text"),
        (b"a,b\n1,\x81\n", "not text"),
        ("ä,b\n1,2\n".encode() + b"\xff,3\n", "Line 3 is not valid UTF-8"),
        (
            b"a,b,c\n1,2,3\n1,2,3,4\n",
            r"Line 3 does not fit the table: it has more cells than the first line \(3\)",
        ),
        (b"a,b,c\n1,2,3\n1,2\n", "Line 3 does not fit the table: it has fewer cells"),
        (b'a,b\n1,"x\n2,y\n', "Line 2 does not fit the table: a quoted value in it does not end"),
        (b'a,b\n1,x\n2,"y"z\n', "Line 3 does not fit the table: a quoted value"),
        (b"\n\na,b\n1,2\n3\n", "Line 5 does not fit the table: it has fewer cells"),
        (b'a,b\n"1\n2",x\n3\n', "Line 4 does not fit the table: it has fewer cells"),
        (b"a,b\n1," + b"x" * MAX_LINE_BYTES + b"\n", "Line 2 does not fit the table: it is longer"),
        (b"a" * (MAX_NAME_LENGTH + 1) + b",b\n1,2\n", "name of column 1 is longer"),
        (b"x" * (MAX_LINE_BYTES + 10), "first line"),
        (b",".join(b"c%d" % number for number in range(MAX_COLUMNS + 1)) + b"\n", "1001 columns"),
    ],
)
def test_what_is_no_table_is_refused_in_words_for_its_owner(
    refusal: Callable[[str | bytes], str], content: bytes, message: str
) -> None:
    told = refusal(content)
    assert re.search(message, told), told
    assert "/" not in told.replace("N/A", ""), "no path of this machine"
    assert len(told) < 300


def test_a_table_of_the_most_columns_is_profiled(profile: Profile) -> None:
    names = ",".join(f"c{number}" for number in range(MAX_COLUMNS))
    row = ",".join(str(number) for number in range(MAX_COLUMNS))
    found = profile(f"{names}\n" + f"{row}\n" * 50)
    assert found["column_count"] == MAX_COLUMNS
    assert column(found, 999)["mean"] == 999
