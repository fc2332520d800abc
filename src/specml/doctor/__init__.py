"""Whether this machine, this installation and this project carry a run; looks only, and mends nothing.

What may crash or hang is tried in processes of its own (``probe``), and a check that fails is a finding itself: where
something is broken is just where this must work.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from specml.doctor import devices, installed, machine, project
from specml.doctor.finding import Finding, told, wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from specml.spec import Spec

__all__ = ["Finding", "findings"]


def findings(folder: Path, spec: Spec | None, switches: Mapping[str, str]) -> Iterator[Finding]:
    """Every check's findings, as they are found.

    Args:
        folder: the project's.
        spec: the project's; None where it has none, or none that is valid.
        switches: environment variables that turn telemetry off, with the value that does.
    """
    gpus = spec.serving.replicas.gpus if spec is not None else 0.0
    device = spec.serving.device if spec is not None else "auto"
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "python": lambda: [installed.python()],
        "versions": installed.versions,
        "onnxruntime": lambda: [installed.one_onnxruntime()],
        "providers": lambda: devices.providers(gpus, device),
        "gpu": devices.gpus,
        "writing": lambda: project.writable(folder),
        "disk": lambda: machine.disk(folder, _bytes(folder, spec)),
        "memory": lambda: [machine.memory()],
        "shared memory": lambda: [machine.shared_memory()],
        "cores": lambda: [machine.cores()],
        "server": lambda: project.server(folder, spec),
        "secrets": lambda: project.secrets(folder, spec),
        "locks": lambda: project.locks(folder),
        "leftovers": lambda: project.remains(folder),
        "telemetry": lambda: machine.telemetry(switches, folder),
    }
    with ThreadPoolExecutor(1) as beside:  # imports take longest
        imports = beside.submit(lambda: [*_surviving("imports", installed.loading)])
        for name, check in checks.items():
            yield from _surviving(name, check)
        yield from imports.result()


def _surviving(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The check's findings; its own failure is one."""
    try:
        yield from check()
    except ImportError as error:
        yield wrong(name, f"can't be looked at: {error}", "A library that specml needs is broken.", installed.AGAIN)
    except OSError as error:
        what = f"can't be looked at: {error.filename or ''} {error.strerror or error}".replace("  ", " ")
        yield told(name, what, "What can't be looked at may be wrong.", "Run it as the user who runs specml.")
    except Exception as error:
        what = f"can't be looked at: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        yield told(name, what, "What can't be looked at may be wrong.", "Where it is not: please report it.")


def _bytes(folder: Path, spec: Spec | None) -> int:
    """The size of the sources' files that are there."""
    files = [folder / file for source in spec.data.sources.values() for file in source.files()] if spec else []
    each = [one for file in files for one in (file.rglob("*") if file.is_dir() else [file])]
    return sum(file.stat().st_size for file in each if file.is_file())
