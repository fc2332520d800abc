"""YAML as specs have it: version 1.2, within bounds, each value with its place."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from specml.document import read
from specml.errors import Problem, SpecError


def problem(raw: bytes) -> Problem:
    with pytest.raises(SpecError) as caught:
        read(raw, "spec.yaml")
    (only,) = caught.value.problems
    return only


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("yes", "yes"),
        ("NO", "NO"),
        ("12:30", "12:30"),
        ("12:30:00", "12:30:00"),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("-7", -7),
        ("123e4567", None),
        ("2026-11-23", "2026-11-23"),
        ("=", "="),
        ("true", True),
        ("True", True),
        ("~", None),
        ("null", None),
        ("", None),
        ("'1'", "1"),
        ("!!str 010", "010"),
        ("!!float 1", 1.0),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    if text == "123e4567":
        assert "beyond what a number can hold" in problem(b"a: 123e4567").what
        return
    found = read(f"a: {text}\n".encode(), "spec.yaml").tree["a"]
    assert found == value
    assert type(found) is type(value)


def test_keys_are_text_as_written() -> None:
    tree = read(b"on: 1\n010: 2\n2024: 3\ntrue: 4\n12:30: 5\n", "spec.yaml").tree
    assert list(tree) == ["on", "010", "2024", "true", "12:30"]


def test_every_value_has_the_place_of_its_key() -> None:
    places = read(b"a:\n  b: 1\n  c: [x, {d: 2}]\n", "spec.yaml").places
    assert places == {
        (): "spec.yaml:1:1",
        ("a",): "spec.yaml:1:1",
        ("a", "b"): "spec.yaml:2:3",
        ("a", "c"): "spec.yaml:3:3",
        ("a", "c", 0): "spec.yaml:3:7",
        ("a", "c", 1): "spec.yaml:3:10",
        ("a", "c", 1, "d"): "spec.yaml:3:11",
    }


def test_an_alias_repeats_the_value_and_its_places() -> None:
    document = read(b"a: &x {b: 1}\nc: *x\n", "spec.yaml")
    assert document.tree == {"a": {"b": 1}, "c": {"b": 1}}
    assert document.places["c", "b"] == "spec.yaml:1:8"
    assert document.tree["a"] is not document.tree["c"]


@pytest.mark.parametrize(
    ("raw", "where", "says"),
    [
        (b"", "1:1", "is empty"),
        (b"# only a comment\n", "1:1", "is empty"),
        (b"---\n", "2:1", "holds nothing"),
        (b"- a\n", "1:1", "holds a list"),
        (b"text\n", "1:1", "holds a single value"),
        (b"a: 1\n---\nb: 2\n", "2:1", "second document"),
        (b"%YAML 1.1\n---\na: 1\n", "2:1", "asks for YAML 1.1"),
        (b"a: 1\nb: 2\na: 3\n", "3:1", "is there twice; first in line 1"),
        (b"a:\n\tb: 1\n", "2:1", "tab"),
        (b"a: 1\n\xff: 2\n", "2:1", "not UTF-8"),
        (b"a: b\xe9\n", "1:5", "not UTF-8"),
        (b"\xef\xbb\xbfa: 1\n", "1:1", "byte-order mark"),
        ("a: 1\n".encode("utf-16"), "1:1", "byte-order mark"),
        (b"a: x\x01\n", "1:5", "U+0001"),
        (b"a:\n  b: 1\n c: 2\n", "3:2", "indentation"),
        (b"a: b: c\n", "1:5", "second ': '"),
        (b"a: [1\nb: 2\n", "1:4", "not closed"),
        (b"b: 1\na: 'x\n", "2:4", "not closed"),
        (b"a: *x\n", "1:4", "names no anchor"),
        (b"a: &x [*x]\n", "1:8", "inside the value that it repeats"),
        (b"a: &x {b: *x}\n", "1:11", "inside the value that it repeats"),
        (b"a: !!python/name:os.system x\n", "1:4", "tag"),
        (b"a: !!binary aGk=\n", "1:4", "tag"),
        (b"!foo a: 1\n", "1:1", "tag"),
        (b"a: !!int ten\n", "1:4", "tagged !!int"),
        (b"a: {_target_: os.system}\n", "1:5", "types, never code"),
        (b"a: &x {b: 1}\nc:\n  <<: *x\n", "3:3", "merges"),
        (b"? [a]\n: 1\n", "1:3", "is no key"),
        (b"{{a}}: 1\n", "1:1", "is no key"),
        (b": 1\n", "1:1", "is no key"),
        (b"a: 1e999\n", "1:4", "beyond"),
        (b"a: " + b"9" * 5000 + b"\n", "1:4", "beyond"),
    ],
)
def test_what_is_not_a_spec_is_refused_at_its_place(raw: bytes, where: str, says: str) -> None:
    found = problem(raw)
    assert found.where == f"spec.yaml:{where}"
    assert says in found.what


def test_a_problem_inside_names_its_key() -> None:
    assert problem(b"a:\n  b:\n    c: !x 1\n").key == "a.b.c"


def bomb() -> bytes:
    levels = [b"a: &a [x,x,x,x,x,x,x,x,x]"]
    for before, name in zip(b"abcde", b"bcdef", strict=True):
        levels.append(b"%c: &%c [%s]" % (name, name, b",".join([b"*%c" % before] * 9)))
    return b"\n".join(levels)


def test_an_alias_bomb_is_refused_at_once_and_costs_nothing() -> None:
    read(b"a: 1\n", "warm.yaml")
    tracemalloc.start()
    start = time.process_time()
    found = problem(bomb())
    spent = time.process_time() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(bomb()) < 300
    assert "values once its aliases are expanded" in found.what
    assert spent < 0.1
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"a: x\n#" + b"x" * 1_000_000, "bytes"),
        (b"a: " + b"[" * 20_000, "nested more than 50"),
        (b"a: " + b"{b: " * 2_000, "nested more than 50"),
        (b"".join(b"%sa:\n" % (b" " * n) for n in range(60)), "nested more than 50"),
        (b"a: &x 1\nb: [" + b"*x, " * 101 + b"]\n", "alias number 101"),
        (b"k" * 501 + b": 1\n", "501 characters"),
        (b"a: [" + b"1," * 100_001 + b"]\n", "100000 values"),
    ],
)
def test_what_is_too_much_is_refused(raw: bytes, says: str) -> None:
    assert says in problem(raw).what


def test_windows_line_ends_are_read() -> None:
    assert read(b"a:\r\n  b: 1\r\n", "spec.yaml").tree == {"a": {"b": 1}}
