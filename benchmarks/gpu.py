"""What a GPU answers in a second, beside onnxruntime's session by itself; and whether it answers right.

    python benchmarks/gpu.py make FOLDER                  train the bundles (anywhere; takes specml as a whole)
    python benchmarks/gpu.py run FOLDER [--check]         measure or check them where the GPU is

``run`` takes only numpy, onnx, onnxruntime-gpu with CUDA's libraries, orjson, pydantic and uvicorn. Each part runs in a
process of its own: one that fails, or hangs, is told and the next one runs; the status is 1 at the end. Without a GPU
it runs as well, on the CPU alone, bound to memory in the same way.

- ``where``: what is here, and what opens.
- ``ways``: in which ways the bundles can be bound, and why not in others.
- ``rates``: seconds of a call and rows a second by size of batch: onnxruntime's session on the CPU and on CUDA, called
  as it is, and ours; and the device's own part alone, without copies, which nothing can be faster than.
- ``server``: one whole replica on uvicorn, asked over HTTP with binary tensors by many connections.
- ``check``: CUDA's answers are the CPU's; recorded graphs answer what they are asked, sizes in any order and from
  several threads; no operator of what is on the GPU is left to the CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from specml.bundle import Bundle
    from specml.serving.session import Session

SIZES = (1, 4, 16, 64, 256, 1024, 4096)
ASKED = (1, 100, 1000)
"""Rows in a request."""
CONNECTIONS = (1, 16)
ASKING = 1.5
"""Seconds that the server is asked for each number of rows and connections."""
SECONDS = 0.12
"""For each number of ``rates``."""
PATIENCE = {"where": 60, "ways": 100, "check": 120, "rates": 120, "server": 90}
"""Seconds after which a part is given up."""


# Training


def make(folder: Path) -> None:
    """Train and package: networks and trees on 30 numbers, and on ten numbers with four categories."""
    numbers = [f"x{place}" for place in range(30)]
    some, words = numbers[:10], ["job", "city", "state", "plan"]
    _bundle(folder / "mlp", "tabular_mlp", {"hidden": (256, 256), "epochs": 3}, numbers, [], "operator")
    for form in ("operator", "tensors"):
        options = {"n_estimators": 300, "num_leaves": 31}
        _bundle(folder / f"lightgbm-{form}", "lightgbm", options, numbers, [], form)
    _bundle(folder / "census", "tabular_mlp", {"hidden": (256, 256), "epochs": 3}, some, words, "operator")


def _bundle(folder: Path, kind: str, options: dict[str, Any], numbers: list[str], words: list[str], form: Any) -> None:
    import polars as pl

    import specml.spec  # noqa: F401 - fills the tables
    from specml.bundle import Contract, write_bundle
    from specml.data import Column, Design
    from specml.features.categorical import Categorical
    from specml.features.numeric import Numeric
    from specml.kinds import Candidate, Training
    from specml.preprocessing import Preprocessing
    from specml.stages import package
    from specml.stages.chosen import Chosen, Member

    random, rows = np.random.default_rng(7), 8000
    X = random.normal(size=(rows, len(numbers)))
    codes = random.integers(0, 20, size=(rows, len(words)))
    score = (X[:, :5] * X[:, 5:10]).sum(axis=1) + (codes % 3).sum(axis=1)
    y = (score + random.normal(size=rows) > np.median(score)).astype(np.int64)
    table = pl.DataFrame(
        {name: X[:, place] for place, name in enumerate(numbers)}
        | {name: [f"{name} {code}" for code in codes[:, place]] for place, name in enumerate(words)}
    )
    ends: dict[str, Any] = {"minimum": -3.0, "maximum": 3.0, "nullable": True}
    columns = tuple(
        [Column(name=name, kind="numeric", **ends) for name in numbers]
        + [
            Column(name=name, kind="categorical", categories=tuple(sorted({f"{name} {code}" for code in range(20)})))
            for name in words
        ]
    )
    candidate: Any = Candidate.table[kind](**options)
    training = Training(candidate.prefers, y, "binary", 2)
    treatment = {column.name: Categorical() if column.name in words else Numeric() for column in columns}
    preprocessing = Preprocessing.fit(table, columns, treatment, training)
    design = Design(preprocessing.transform(table), y, None, "binary", 2, preprocessing.cardinalities)
    model = candidate.fit(design, seed=1, threads=2)
    contract = Contract(
        name=folder.name, task="binary", target="y", inputs=columns, classes=(0, 1), threshold=0.5, candidate=kind
    )
    graph = package.assemble(contract, Chosen((Member(preprocessing, model),)), form)
    digest = write_bundle(folder, contract, graph.to_bytes(), {"columns": {}}, trees=form if graph.has_trees else None)
    print(f"{folder.name}: {digest}, {(folder / 'model.onnx').stat().st_size:,} bytes")


# Parts of a run


def where(_: list[Bundle]) -> None:
    """What is here, and what opens."""
    import onnxruntime

    from specml.serving import device as devices
    from specml.serving.memory import architecture

    print(f"Python {sys.version.split()[0]}, numpy {np.__version__}, onnxruntime {onnxruntime.__version__}", end="")
    print(f" for CUDA {onnxruntime.capi.build_and_package_info.cuda_version}, {os.cpu_count()} CPUs")
    try:
        question = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        print(subprocess.run(question, capture_output=True, text=True, check=True).stdout.strip())
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"nvidia-smi: {error}")
    graph = _smallest()
    for device, provider in devices.PROVIDERS.items():
        try:
            given = devices.cuda() if device == "cuda" else [(provider, {})]
            devices.opened(graph, given)
            print(f"{device}: opens, {architecture() if device != 'cpu' else ''}")
        except Exception as error:
            print(f"{device}: does not open: {error}")


def ways(bundles: list[Bundle]) -> None:
    """Print whether each way to bind a bundle works, why not, and what a call takes."""
    from specml.serving.drawn import drawn
    from specml.serving.measure import in_turn
    from specml.serving.session import Session

    if not _has_gpu():
        print("no GPU")
        return
    for bundle in bundles:
        session = Session(bundle, gpu=False, max_batch_size=4096)
        columns = drawn(bundle.contract, 4096)

        def timed(bind: Callable[[], Any], columns: dict[str, Any] = columns) -> str:
            began = time.perf_counter()
            bound = bind()
            taken = time.perf_counter() - began
            told = []
            for size in (1, 256, 4096):
                rows = [{name: array[:size] for name, array in columns.items()}]
                (seconds,) = in_turn([lambda: bound.run(bound.stage(rows))], SECONDS)  # noqa: B023
                told.append(f"{size} rows {1e6 * seconds:,.0f} us")
            bound.close()
            return f"{', '.join(told)}; {taken:.2f} s to open"

        for how, bind in session._ways("cuda"):
            try:
                print(f"{bundle.contract.name}, {how}: {session.executor.submit(timed, bind).result()}", flush=True)
            except Exception as error:
                print(f"{bundle.contract.name}, {how}: {type(error).__name__}: {error}", flush=True)
        session.close()


def check(bundles: list[Bundle]) -> None:
    """Raise where an answer is wrong."""
    wrong = 0
    for bundle in bundles:
        for one in (_parity, _placed, _together):
            try:
                print(f"{bundle.contract.name}: {one(bundle)}", flush=True)
            except Exception as error:
                wrong += 1
                print(f"{bundle.contract.name}: {one.__name__} FAILS: {type(error).__name__}: {error}", flush=True)
    if wrong:
        raise SystemExit(f"{wrong} checks fail")


def rates(bundles: list[Bundle]) -> None:
    """Print a table for each bundle."""
    from specml.bundle import predict
    from specml.serving.device import cuda, opened
    from specml.serving.drawn import drawn
    from specml.serving.measure import in_turn

    gpu = _has_gpu()
    told: dict[str, Any] = {}
    for bundle in bundles:
        name, columns = bundle.contract.name, drawn(bundle.contract, max(SIZES))
        session = _session(bundle)
        calls: dict[str, Callable[[Any], Any]] = {"raw cpu": partial(predict, bundle.session())}
        if gpu:
            calls["raw cuda"] = partial(predict, opened(bundle.model, cuda()))
        calls["ours"] = session.run
        print(f"\n{name}: ours is on {session.provider}; {session.why}")
        heads = [*calls, "device alone"]
        print(f"{'rows':>6} " + "".join(f"{head + ' us':>17}" for head in heads), end="")
        print("   ours rows/s" + "".join(f"{'x ' + head:>11}" for head in heads if head.startswith("raw")))
        for size in SIZES:
            rows = {column: array[:size] for column, array in columns.items()}
            timed = [lambda call=call: call(rows) for call in calls.values()]  # noqa: B023
            measured = session.executor.submit(in_turn, timed, SECONDS).result()  # where the batcher runs it
            taken = dict(zip(calls, measured, strict=True))
            taken["device alone"] = _alone(session, size)
            told.setdefault(name, {})[size] = taken
            line = f"{size:6} " + "".join(f"{1e6 * taken[head]:17,.1f}" for head in heads)
            line += f"{size / taken['ours']:14,.0f}"
            line += "".join(f"{taken[head] / taken['ours']:11.2f}" for head in heads if head.startswith("raw"))
            print(line, flush=True)
        _turns(session, columns)
        session.close()
    _keep("rates", told)


def server(bundles: list[Bundle]) -> None:
    """Print what a whole replica answers."""
    from specml.bundle import predict
    from specml.serving.device import cuda, opened
    from specml.serving.drawn import drawn
    from specml.serving.measure import in_turn

    told: dict[str, Any] = {}
    gpu = _has_gpu()
    for bundle in (one for one in bundles if one.contract.name in ("mlp", "lightgbm-operator", "census")):
        name = bundle.contract.name
        calls = {"cpu": partial(predict, bundle.session())}
        if gpu:
            calls["cuda"] = partial(predict, opened(bundle.model, cuda()))
        columns = drawn(bundle.contract, max(ASKED))
        with _Serving(bundle, "cuda" if gpu else "cpu") as port:
            print(f"\n{name}, one replica by HTTP: {asyncio.run(_get(port, '/v2'))}")
            print(f"{'rows':>6}{'connections':>13}{'requests/s':>12}{'rows/s':>13}{'p50 ms':>9}{'p99 ms':>9}", end="")
            print("".join(f"{'raw ' + device + ' rows/s':>17}{'ratio':>8}" for device in calls))
            for size in ASKED:
                rows = {column: array[:size] for column, array in columns.items()}
                alone = in_turn([lambda call=call: call(rows) for call in calls.values()], SECONDS)  # noqa: B023
                request = _request(bundle, rows, size)
                for connections in CONNECTIONS:
                    taken = asyncio.run(_ask(port, request, connections, ASKING))
                    rate = size * len(taken) / ASKING
                    taken.sort()
                    p50, p99 = (1e3 * taken[int(len(taken) * share)] for share in (0.5, 0.99))
                    line = f"{size:6}{connections:13}{len(taken) / ASKING:12,.0f}{rate:13,.0f}{p50:9.2f}{p99:9.2f}"
                    line += "".join(f"{size / one:17,.0f}{rate * one / size:8.2f}" for one in alone)
                    print(line, flush=True)
                    told.setdefault(name, {})[f"{size}x{connections}"] = {"rows/s": rate, "p50": p50, "p99": p99}
    _keep("server", told)


PARTS = {"where": where, "ways": ways, "check": check, "rates": rates, "server": server}


# How they are done


def _has_gpu() -> bool:
    from specml.serving.device import NotOpened, cuda, gpu_visible, opened

    if not gpu_visible():
        return False
    try:
        opened(_smallest(), cuda())
    except NotOpened as error:
        raise SystemExit(f"CUDA does not open: {error}") from None
    return True


def _session(bundle: Bundle, most: int = max(SIZES)) -> Session:
    from specml.serving.session import Session

    if _has_gpu():
        return Session(bundle, gpu=True, device="cuda", max_batch_size=most)
    return Session(bundle, gpu=False, max_batch_size=most, buckets=SIZES)


def _smallest() -> bytes:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "smallest", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


def _parity(bundle: Bundle) -> str:
    """The CPU's answers, whatever the size, in whatever order, each more than once."""
    from specml.bundle import predict
    from specml.serving.drawn import drawn

    session, raw = _session(bundle, 256), bundle.session()
    sizes = [256, 1, 255, 3, 64, 200, 2, 17, 1, 129, 256, 8, 5, 64, 300, 1]
    most, labels, rows = 0.0, 0, 0
    columns = drawn(bundle.contract, 4096)
    for place, size in enumerate(sizes * 3):
        start = (place * 337) % (4096 - size)
        part = {name: array[start : start + size] for name, array in columns.items()}
        one, two = session.run(part), predict(raw, part)
        for name, array in two.items():
            if one[name].shape != array.shape or one[name].dtype != array.dtype:
                raise AssertionError(f"{name} is {one[name].dtype}{one[name].shape}")
            if array.dtype.kind == "f":
                np.testing.assert_array_equal(np.isnan(one[name]), np.isnan(array), err_msg=name)
                most = max(most, float(np.nanmax(np.abs(one[name] - array), initial=0.0)))
            else:
                labels += int((one[name] != array).sum())
        rows += size
    if most > 1e-4 or labels > rows / 1000:
        raise AssertionError(f"answers differ by {most:.3g}, {labels} of {rows} labels; {session.why}")
    session.close()
    return f"{rows} rows in {3 * len(sizes)} batches, at most {most:.2g} from the CPU, {labels} labels differ"


def _placed(bundle: Bundle) -> str:
    """Where the operators of the device's part ran, told by onnxruntime's profile."""
    import onnxruntime

    from specml.serving.cut import cut
    from specml.serving.device import CPU, cuda
    from specml.serving.drawn import drawn

    found = cut(bundle.model)
    if found is None:
        return "nothing is for a device"
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.log_severity_level = True, 3
    options.profile_file_prefix = str(Path(tempfile.mkdtemp()) / "profile")
    columns = {name: array.reshape(-1, 1) for name, array in drawn(bundle.contract, 64).items()}
    if found.before.graph:
        before = onnxruntime.InferenceSession(found.before.graph, providers=[CPU])
        columns |= _named(before, columns)
    session = onnxruntime.InferenceSession(found.within.graph, options, providers=cuda() if _has_gpu() else [CPU])
    _named(session, columns)
    events = json.loads(Path(session.end_profiling()).read_bytes())
    ran: dict[str, list[str]] = {}
    for event in events:
        if event["cat"] == "Node" and event["args"].get("provider"):
            ran.setdefault(event["args"]["provider"], []).append(event["args"]["op_name"])
    on_cpu = sorted(set(ran.get(CPU, [])))
    copies = sum(name.startswith("Memcpy") for names in ran.values() for name in names)
    told = f"{ ({one: len(names) for one, names in ran.items()}) }, {copies} copies"
    if _has_gpu() and (on_cpu or copies):
        raise AssertionError(f"{told}; on the CPU: {on_cpu}")
    return told


def _named(session: Any, columns: dict[str, Any]) -> dict[str, Any]:
    """A part's outputs by name."""
    names = [one.name for one in session.get_outputs()]
    return dict(
        zip(names, session.run(names, {one.name: columns[one.name] for one in session.get_inputs()}), strict=True)
    )


def _together(bundle: Bundle) -> str:
    """Several threads at once, each with its own rows and sizes: none gets another's answers."""
    from specml.bundle import predict
    from specml.serving.drawn import drawn

    session, raw = _session(bundle, 256), bundle.session()
    columns, wrong, done = drawn(bundle.contract, 4096), [], [0]

    def ask(number: int) -> None:
        random = np.random.default_rng(number)
        for _ in range(60):
            size = int(random.integers(1, 257))
            start = int(random.integers(0, 4096 - size))
            part = {name: array[start : start + size] for name, array in columns.items()}
            try:
                one, two = session.run(part), predict(raw, part)
                if not np.allclose(one["probabilities"], two["probabilities"], atol=1e-4):
                    wrong.append(size)
            except Exception as error:
                wrong.append(str(error)[:200])
            done[0] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    why = session.why
    session.close()
    if wrong:
        raise AssertionError(f"{len(wrong)} of {done[0]} batches are wrong: {wrong[:3]}")
    return f"{done[0]} batches of 4 threads; {why}"


def _alone(session: Session, size: int) -> float:
    """Seconds of the device's part of a call alone: nothing is copied, nothing looked up."""
    from specml.serving.measure import in_turn

    bound = session.bound
    if bound is None:
        return float("nan")

    def timed() -> float:
        padded = bound.size(size)

        def once() -> None:
            bound._session.run_with_iobinding(bound._bindings[padded], bound._how[padded])
            bound._memory.wait()

        return in_turn([once], SECONDS / 2)[0]

    return session.executor.submit(timed).result()


def _turns(session: Session, columns: dict[str, Any]) -> None:
    """What of a call each step takes: writing, the recorded run against a plain one."""
    bound = session.bound
    if bound is None:
        return

    def timed() -> str:
        from specml.serving.measure import in_turn

        told = []
        for size in (1, 256, max(SIZES)):
            rows = [{name: array[:size] for name, array in columns.items()}]

            def staging() -> None:
                bound._free.put(bound.stage(rows).slot)  # noqa: B023

            stage, run, plain = in_turn(
                [
                    staging,
                    lambda: bound.run(bound.stage(rows)),  # noqa: B023
                    lambda: bound.run(bound.stage(rows), plain=True),  # noqa: B023
                ],
                SECONDS,
            )
            told.append(
                f"{size} rows: {1e6 * stage:.0f} us to stage, {1e6 * run:.0f} in all, {1e6 * plain:.0f} unrecorded"
            )
        return "; ".join(told)

    print(session.executor.submit(timed).result())


class _Serving:
    """A replica on uvicorn in a process of its own; gives its port."""

    def __init__(self, bundle: Bundle, device: str) -> None:
        self._args = {
            "bundle": str(FOLDER / bundle.contract.name),
            "gpus": 1.0 if device == "cuda" else 0.0,
            "device": device,
            "batching": {"max_batch_size": 4096, "max_queue": 200_000},
            "max_rows": 10_000,
        }

    def __enter__(self) -> int:
        command = [sys.executable, "-m", "specml.serving.alone"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(self._args) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the server did not start")
        return int(json.loads(line)["port"])

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()


def _request(bundle: Bundle, rows: dict[str, Any], n: int) -> bytes:
    """The whole request, with every column as a binary tensor."""
    inputs, parts = [], []
    for column in bundle.contract.inputs:
        array = rows[column.name]
        if array.dtype == object:
            raw = b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in array.tolist())
        else:
            raw = array.astype("<f8").tobytes()
        kind = "BYTES" if array.dtype == object else "FP64"
        size = {"binary_data_size": len(raw)}
        inputs.append({"name": column.name, "shape": [n, 1], "datatype": kind, "parameters": size})
        parts.append(raw)
    wanted = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    header = json.dumps({"inputs": inputs, "outputs": wanted}).encode()
    body = header + b"".join(parts)
    head = f"POST /v2/models/{bundle.contract.name}/infer HTTP/1.1\r\nhost: localhost\r\n"
    head += "content-type: application/octet-stream\r\n"
    head += f"inference-header-content-length: {len(header)}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _ask(port: int, request: bytes, connections: int, seconds: float) -> list[float]:
    """The seconds of each answered request."""
    taken: list[float] = []
    started = time.perf_counter()

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
        while time.perf_counter() - started < seconds:
            began = time.perf_counter()
            writer.write(request)
            status, body = await _answer(reader)
            if status != 200:
                raise RuntimeError(f"status {status}: {body[:200]!r}")
            taken.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return taken


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = next(int(line.partition(":")[2]) for line in head.splitlines() if line.startswith("content-length:"))
    return int(head.split(" ", 2)[1]), await reader.readexactly(length)


async def _get(port: int, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
    _, body = await _answer(reader)
    writer.close()
    return body.decode()


def _keep(name: str, told: dict[str, Any]) -> None:
    if folder := os.environ.get("OUT"):
        (Path(folder) / f"{name}.json").write_text(json.dumps(told, indent=1))


FOLDER = Path()


def main() -> int:
    """Make, or run the parts; the status is 1 where one failed."""
    global FOLDER  # noqa: PLW0603
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["make", "run", *PARTS])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true", help="only check answers")
    asked = parser.parse_args()
    FOLDER = asked.folder.resolve()
    if asked.what == "make":
        make(FOLDER)
        return 0
    if asked.what in PARTS:
        from specml.bundle import open_bundle

        PARTS[asked.what]([open_bundle(path) for path in sorted(FOLDER.iterdir()) if path.is_dir()])
        return 0
    failed = []
    for part in ("where", "ways", "check") if asked.check else PARTS:
        print(f"\n== {part}", flush=True)
        began = time.perf_counter()
        try:
            command = [sys.executable, "-u", __file__, part, str(FOLDER)]
            status = subprocess.run(command, timeout=PATIENCE[part], check=False).returncode
        except subprocess.TimeoutExpired:
            status = -1
        except Exception:
            traceback.print_exc()
            status = 1
        if status:
            failed.append(f"{part} ({'too slow' if status == -1 else f'status {status}'})")
        print(f"== {part}: {time.perf_counter() - began:.0f} s", flush=True)
    print(f"failed: {', '.join(failed)}" if failed else "all parts ran")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
