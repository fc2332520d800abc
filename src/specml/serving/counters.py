"""What a replica has done, as Prometheus text."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384, 65536)
STAGES = (1e-05, 2.5e-05, 5e-05, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0)
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """Counts of values up to each of some bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value, once or so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """The histogram in the text format."""
        total = 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {total}'
        yield f"{name}_sum{{{labels}}} {self.sum:.9g}"
        yield f"{name}_count{{{labels}}} {total}"


class Counters:
    """Plain numbers, kept by the one event loop of a replica."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """Answers by route and status."""
        self.rows = 0
        """Rows answered."""
        self.unseen: Counter[str] = Counter()
        """Values of each column that stood in no training row."""
        self.failures = 0
        """Requests on which the model could not be run."""
        self.shared = 0
        """Batches with rows of more than one request."""
        self.expired = 0
        """Requests that waited for too long."""
        self.gone = 0
        """Requests whose clients went away before their answers."""
        self.latency = Histogram(SECONDS)
        self.parse_seconds = Histogram(STAGES)
        self.wait_seconds = Histogram(STAGES)
        self.write_seconds = Histogram(STAGES)
        self.batch_rows = Histogram(SIZES)
        self.batch_seconds = Histogram(STAGES)
        self.waited = self.wait_seconds.add

    def request(self, route: str, status: int, seconds: float, rows: int) -> None:
        """Count one answer."""
        self.requests[route, status] += 1
        self.rows += rows
        self.latency.add(seconds)

    def batch(self, rows: int, requests: int, seconds: float) -> None:
        """Count one call of the model with ``rows`` rows of ``requests`` requests."""
        self.shared += requests > 1
        self.batch_rows.add(rows)
        self.batch_seconds.add(seconds)

    def text(
        self,
        *,
        replica: str,
        model: str,
        bundle: str,
        provider: str,
        waiting_rows: int,
        ongoing: int = 0,
        cached: tuple[int, int] | None = None,
        captured: tuple[int, int] | None = None,
    ) -> str:
        """All of it in the text format of Prometheus, labelled with the replica.

        ``cached``: requests that the cache has answered, and has not; None where there is none.
        ``captured``: rows that capture has written and dropped; None where nothing is captured.
        """
        own = f'model="{model}",replica="{replica}"'
        lines = [
            "# HELP specml_info The bundle that is served, and the device that it runs on.",
            "# TYPE specml_info gauge",
            f'specml_info{{{own},bundle="{bundle}",provider="{provider}"}} 1',
            "# HELP specml_requests_total Answers, by route and status.",
            "# TYPE specml_requests_total counter",
        ]
        for (route, status), count in sorted(self.requests.items()):
            lines.append(f'specml_requests_total{{{own},route="{route}",status="{status}"}} {count}')
        about = "Categories in requests that stood in no training row."
        lines += [f"# HELP specml_unseen_categories_total {about}", "# TYPE specml_unseen_categories_total counter"]
        for name, count in sorted(self.unseen.items()):
            lines.append(f'specml_unseen_categories_total{{{own},column="{_label(name)}"}} {count}')
        singles = [
            ("rows_total", "counter", "Rows answered.", self.rows),
            ("model_failures_total", "counter", "Requests on which the model could not be run.", self.failures),
            ("expired_requests_total", "counter", "Requests that waited for too long.", self.expired),
            ("gone_clients_total", "counter", "Requests whose clients went away before their answers.", self.gone),
            ("shared_batches_total", "counter", "Batches with rows of more than one request.", self.shared),
            ("waiting_rows", "gauge", "Rows that wait for a batch.", waiting_rows),
            ("ongoing_requests", "gauge", "Requests for the model that are not answered yet.", ongoing),
        ]
        if cached is not None:
            hits, misses = cached
            singles += [
                ("cache_hits_total", "counter", "Requests that were answered without the model.", hits),
                ("cache_misses_total", "counter", "Requests that were not asked before.", misses),
            ]
        if captured is not None:
            written, dropped = captured
            singles += [
                ("capture_rows_total", "counter", "Captured rows written.", written),
                ("capture_dropped_rows_total", "counter", "Rows that capture could not keep.", dropped),
            ]
        for name, kind, about, value in singles:
            lines += [
                f"# HELP specml_{name} {about}",
                f"# TYPE specml_{name} {kind}",
                f"specml_{name}{{{own}}} {value}",
            ]
        histograms = [
            ("request_seconds", "From the request's body to its answer.", self.latency),
            ("parse_seconds", "Reading the rows of a body.", self.parse_seconds),
            ("wait_seconds", "From there to the request's first batch.", self.wait_seconds),
            ("write_seconds", "Making an answer of the model's outputs.", self.write_seconds),
            ("batch_rows", "Rows in one call of the model.", self.batch_rows),
            ("batch_seconds", "Duration of one call of the model.", self.batch_seconds),
        ]
        for name, about, histogram in histograms:
            lines += [f"# HELP specml_{name} {about}", f"# TYPE specml_{name} histogram"]
            lines += histogram.lines(f"specml_{name}", own)
        return "\n".join(lines) + "\n"


def _label(value: str) -> str:
    """A label's value in the text format."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
