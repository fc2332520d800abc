"""Everything that reads a request, fed with bytes that a fuzzer makes: ``python -m tests.fuzz --runs 1000000``.

Atheris (libFuzzer) changes known requests, and keeps what reaches new lines of ``specml.serving``. Whatever a reader is
given, it answers with rows that fit the contract or raises ``Refused``; anything else ends the command with status 77
and the bytes in a file ``crash-…``, which ``--file`` reads again. Where Atheris is not installed it is put into
``.specml/fuzz``, by pip; it is no part of the development environment, for its size.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ATHERIS = "atheris==3.0.0"
FOLDER = Path(".specml/fuzz")
MAX_ROWS = 20
LONGEST = 4096
"""Bytes of an input."""
BETWEEN = b"\xff"
"""Stands between bodies, and in no JSON."""

WORDS = [
    *('"inputs"', '"outputs"', '"name"', '"shape"', '"datatype"', '"data"', '"parameters"', '"id"', '"binary_data"'),
    *('"binary_data_size"', '"binary_data_output"', '"rows"', '"history"', '"age"', '"hours"', '"member"', '"label"'),
    *('"workclass"', '"at"', '"note"', '"person"', '"FP64"', '"FP32"', '"FP16"', '"BF16"', '"INT64"', '"UINT64"'),
    *('"BYTES"', '"BOOL"', "true", "false", "null", "NaN", "1e400", "-1", "9223372036854775808", "0.1", "[]", "{}"),
    *('"columns"', '{"columns": [', '], "rows": [['),
    *('"2024-01-01T00:00:00Z"', '"0001-01-01"', '"9999-12-31T23:59:59"', '"24:00"', "[[", "]]", ",", ":", "\\\\ud800"),
]


def contracts() -> dict[str, Any]:
    """The contracts whose requests are read: all kinds of columns, one that looks back, and one of numbers alone."""
    from specml.bundle import Contract
    from specml.data import Column, PastRows, past
    from tests.bundles import COLUMNS

    told = {"name": "census", "task": "binary", "target": "income", "classes": (0, 1), "candidate": "by_hand"}
    kinds = (
        *COLUMNS,
        Column(name="at", kind="datetime", minimum=0.0, maximum=1e9),
        Column(name="note", kind="text", nullable=True),
    )
    back = (*COLUMNS, COLUMNS[1].model_copy(update={"name": past("hours", 1)}))
    looks = PastRows(rows=1, columns=("hours",), time="at", by=("person",))
    return {
        "every kind": Contract.model_validate({**told, "inputs": kinds}),
        "history": Contract.model_validate({**told, "inputs": back, "history": looks}),
        "numbers": Contract.model_validate({**told, "inputs": COLUMNS[:2]}),
    }


def fits(rows: Any, contract: Any) -> None:
    """Make sure that rows are what the graph takes."""
    import numpy as np

    assert 1 <= rows.n <= MAX_ROWS
    assert {column.name for column in contract.inputs} == set(rows.columns)
    for column in contract.inputs:
        array = rows.columns[column.name]
        assert array.shape == (rows.n,)
        if column.tensor == "string":
            assert all(type(value) is str for value in array)
        else:
            assert array.dtype == np.float64
            assert not np.isinf(array).any()


def readers() -> dict[str, tuple[Callable[[bytes], None], list[bytes]]]:
    """What reads requests, and requests to begin with, by name."""
    from specml.serving import rpc
    from specml.serving.infer import read_infer
    from specml.serving.refusal import Refused
    from specml.serving.request import read_rows
    from tests import malformed

    known = list(contracts().values())

    def quiet(read: Callable[[bytes, Any], Any]) -> Callable[[bytes], None]:
        """The first byte chooses the contract."""

        def one(raw: bytes) -> None:
            contract = known[raw[0] % len(known)] if raw else known[0]
            with contextlib.suppress(Refused):
                fits(read(raw[1:], contract), contract)

        return one

    def infer(raw: bytes, contract: Any) -> Any:
        """The next two bytes are the header's length, unless they are 0."""
        length = int.from_bytes(raw[:2], "big")
        return read_infer(raw[2:], str(length) if length else None, contract, MAX_ROWS).rows

    def grpc(raw: bytes, contract: Any) -> Any:
        return rpc.infer_of(rpc.read_message(raw, contract, MAX_ROWS), contract, MAX_ROWS).rows

    bodies = [
        (body, int(headers.get("inference-header-content-length", "0") or 0) if _is_length(headers) else 0)
        for body, headers, _ in malformed.INFER.values()
    ]
    rows = [malformed.rows(), *(body for body, _, _ in malformed.PREDICT.values())]
    full = {**malformed.GOOD, "at": "2024-01-01", "note": "a text"}
    rows.append(json.dumps({"rows": [full, full]}).encode())
    rows.append(json.dumps({"rows": [{**malformed.GOOD, "history": [{"hours": 1}, {"hours": None}]}]}).encode())
    rows.append(b'{"columns": ["age", "hours"], "rows": [[50, 10.5], [1, null]]}')
    rows.append(b'{"rows": [{"age": 50, "hours": 10.5}, {"age": 1}]}')
    rows.append(b'{"rows": [[1]], "columns": [' + b"[" * 1000 + b"]" * 1000 + b"]}")
    found = {
        "rows": (quiet(lambda raw, contract: read_rows(raw, contract, MAX_ROWS)), rows),
        "infer": (quiet(infer), [length.to_bytes(2, "big") + body for body, length in bodies if length < 65536]),
        "grpc": (quiet(grpc), _messages()),
    }
    found |= _tables(quiet)
    found |= {f"fast {name}": (one, found[name][1]) for name, one in _fast(known).items()}
    found["together"] = _together(known), [BETWEEN.join(rows[place : place + 3]) for place in range(len(rows))]
    found["together"][1].extend(BETWEEN.join([row] * 3) for row in rows)
    return found


def _fast(known: list[Any]) -> dict[str, Callable[[bytes], None]]:
    """The readers of usual requests: they give what the others give, refusals with them."""
    from specml.serving.infer import HEADER_LENGTH, read_infer
    from specml.serving.lean import Reader
    from specml.serving.request import read_rows

    fast = [Reader(contract, MAX_ROWS) for contract in known]  # they remember

    def rows(raw: bytes) -> None:
        place, body = raw[0] % len(known) if raw else 0, raw[1:]
        one, other = _outcome(lambda: fast[place].rows(body)), _outcome(lambda: read_rows(body, known[place], MAX_ROWS))
        _same(one, other)

    def infer(raw: bytes) -> None:
        place, body = raw[0] % len(known) if raw else 0, raw[3:]
        length = str(int.from_bytes(raw[1:3], "big"))
        headers = {} if length == "0" else {HEADER_LENGTH: length}
        one = _outcome(lambda: fast[place].infer(body, headers))
        other = _outcome(lambda: read_infer(body, headers.get(HEADER_LENGTH), known[place], MAX_ROWS))
        if not isinstance(one, tuple) and not isinstance(other, tuple):
            assert (one.id, one.outputs) == (other.id, other.outputs)
            one, other = one.rows, other.rows
        _same(one, other)

    return {"rows": rows, "infer": infer}


def _together(known: list[Any]) -> Callable[[bytes], None]:
    """The reader of several bodies: it gives what each is by itself, if anything."""
    from specml.serving.lean import Reader, Unusual
    from specml.serving.request import read_rows

    fast = [Reader(contract, MAX_ROWS) for contract in known]

    def together(raw: bytes) -> None:
        place, bodies = raw[0] % len(known) if raw else 0, raw[1:].split(BETWEEN)
        if not fast[place].joins:
            return
        try:
            rows, counts = fast[place].together(bodies)
        except Unusual:
            return
        assert sum(counts) == rows.n
        start = 0
        for body, n in zip(bodies, counts, strict=True):
            part, start = rows.part(start, start + n), start + n
            fits(part, known[place])
            _same(part, read_rows(body, known[place], MAX_ROWS))

    return together


def _outcome(read: Callable[[], Any]) -> Any:
    """What is read, or status and text of the refusal."""
    from specml.serving.refusal import Refused

    try:
        return read()
    except Refused as refusal:
        return refusal.http, refusal.what


def _same(one: Any, other: Any) -> None:
    import numpy as np

    if isinstance(one, tuple) or isinstance(other, tuple):
        assert one == other
        return
    assert one.n == other.n
    assert set(one.columns) == set(other.columns)
    for name, array in one.columns.items():
        np.testing.assert_array_equal(array, other.columns[name], err_msg=name)


def _is_length(headers: dict[str, str]) -> bool:
    value = headers.get("inference-header-content-length", "0")
    return value.isascii() and value.isdigit() and len(value) < 6


def _messages() -> list[bytes]:
    from specml.serving.messages import message
    from tests.unit.serving.test_rpc import MALFORMED, raw, typed

    asked = [raw(), typed(), *(one for one, _, _ in MALFORMED.values())]
    kind = message("ModelInferRequest")
    return [one if isinstance(one, bytes) else kind(**one).SerializeToString() for one in asked]


def _tables(quiet: Callable[[Callable[[bytes, Any], Any]], Callable[[bytes], None]]) -> dict[str, Any]:
    from specml.serving import arrow, tabular

    csv = [
        b"age,hours,member,workclass\n50,10.5,false,Private\n",
        b'\xef\xbb\xbfage,member,workclass\r\n1,true,"a ""b"", c"\r\n\r\n2,false,\r\n',
        b"age,member,at,note\n1,1,2024-01-01,x\n",
    ]
    columns = {"age": [50.0, 1.0], "hours": [10.5, None], "member": [True, False], "workclass": ["Private", None]}
    written = [arrow.write(columns), arrow.write({name: values[:1] for name, values in columns.items()})]
    return {
        "csv": (quiet(lambda raw, contract: tabular.read(raw, tabular.CSV, contract, MAX_ROWS)), csv),
        "arrow": (quiet(lambda raw, contract: tabular.read(raw, tabular.ARROW, contract, MAX_ROWS)), written),
    }


def main() -> int:
    """Fuzz one reader after the other, each in a process of its own: libFuzzer ends the one that it runs in."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions, of all readers together (%(default)s)")
    parser.add_argument("--only", help="one reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", type=Path, help="read this file once, with --only; needs no Atheris")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.file is not None:
        readers()[asked.only][0](asked.file.read_bytes())
        return 0
    if not asked.child:
        return _all(asked)
    return _one(asked)


def _all(asked: argparse.Namespace) -> int:
    names = [asked.only] if asked.only else list(readers())
    runs = -(-asked.runs // len(names))
    for name in names:
        began = time.monotonic()
        command = [sys.executable, "-m", "tests.fuzz", "--child", f"--only={name}", f"--runs={runs}"]
        done = subprocess.run([*command, f"--seed={asked.seed}"], stderr=subprocess.PIPE, text=True, check=False)
        told = [line for line in done.stderr.splitlines() if line.startswith("Done ")]
        if done.returncode or not told:
            print(f"{name}: status {done.returncode}\n{done.stderr[-6000:]}")
            return done.returncode or 1
        covered = [line for line in done.stderr.splitlines() if " cov: " in line][-1].split(" cov: ")[1].split()[0]
        print(f"{name}: {runs:,} executions in {time.monotonic() - began:.0f} s, {covered} places reached, no crash")
    return 0


def _one(asked: argparse.Namespace) -> int:
    try:
        import atheris
    except ImportError:
        sys.path.append(str(FOLDER.resolve()))
        if not (FOLDER / "atheris").exists():
            target = ["--quiet", "--no-deps", "--target", str(FOLDER), ATHERIS]
            subprocess.run([sys.executable, "-m", "pip", "install", *target], check=True)
        atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["specml.serving"]):
        read, seeds = readers()[asked.only]
    with tempfile.TemporaryDirectory() as folder:
        corpus, words = Path(folder, "corpus"), Path(folder, "words")
        corpus.mkdir()
        for index, seed in enumerate(seeds):
            for contract in (b"\0", b"\1", b"\2"):
                (corpus / f"{index}-{contract[0]}").write_bytes(contract + seed[: LONGEST - 1])
        words.write_text("".join('"' + word.replace('"', '\\"') + '"\n' for word in WORDS))
        options = [f"-atheris_runs={asked.runs}", f"-seed={asked.seed}", f"-max_len={LONGEST}", f"-dict={words}"]
        options += ["-timeout=30", "-rss_limit_mb=2048", "-artifact_prefix=./", "-print_final_stats=0"]
        atheris.Setup([sys.argv[0], str(corpus), *options], read)
        try:
            atheris.Fuzz()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # libFuzzer's clock rings even after the last run
    return 0


if __name__ == "__main__":
    sys.exit(main())
