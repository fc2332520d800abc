"""``specml bench``, and what a deploy makes of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from click.testing import CliRunner

from specml import measurements
from specml.application import asked
from specml.cli import cli
from specml.cli.bench import sizes
from specml.files import canonical_json
from tests.bundles import binary_bundle
from tests.conftest import tree

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_every_size_is_measured_and_kept_for_deploys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spec.yaml").write_bytes(canonical_json(tree()))
    digest = binary_bundle(tmp_path / "artifacts/bundle")
    arguments = ["bench", str(tmp_path), "--seconds", "0.01", "serving.batching.max_batch_size=20"]
    document = json.loads(CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert document["bundle"] == digest
    found = {(one["device"], one["rows"]): one["seconds"] for one in document["measured"]}
    assert {("cpu", 1), ("cpu", 4), ("cpu", 16), ("cpu", 20)} <= found.keys()
    kept = measurements.known(tmp_path, digest)
    assert kept["cpu"] == {rows: seconds for (device, rows), seconds in found.items() if device == "cpu"}
    assert measurements.known(tmp_path, "sha256:another") == {}
    told = CliRunner().invoke(cli, arguments, catch_exceptions=False).stdout
    assert "times as fast" in told
    assert "kept in .specml/costs.json" in told
    monkeypatch.setattr(measurements, "machine", lambda: "another machine")
    assert measurements.known(tmp_path, digest) == {}


def test_a_file_that_can_not_be_read_is_nothing_measured(tmp_path: Path) -> None:
    (tmp_path / ".specml").mkdir()
    (tmp_path / measurements.FILE).write_text("[1")
    assert measurements.known(tmp_path, "sha256:0") == {}
    measurements.keep(tmp_path, "sha256:0", {"cpu": {1: 0.5}})
    measurements.keep(tmp_path, "sha256:1", {"cpu": {1: 0.25}})
    assert measurements.known(tmp_path, "sha256:0") == {"cpu": {1: 0.5}}


def test_another_measurement_is_no_other_deployment() -> None:
    def config(**args: object) -> dict[str, object]:
        return {"applications": [{"name": "x", "args": args}]}

    assert asked(config(costs={"cpu": {"1": 0.5}}, bundle="a")) == asked(config(bundle="a"))
    assert asked(config(bundle="a")) != asked(config(bundle="b"))


def test_sizes_end_with_the_largest_batch() -> None:
    assert sizes(256) == (1, 4, 16, 64, 256)
    assert sizes(1) == (1,)
    assert sizes(300)[-1] == 300
