"""What gates may ask of the packaged model, in this process and by HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from specml.evidence import differences
from tests.gates.conftest import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from specml.evidence import Evidence


@pytest.mark.parametrize("task", TASKS)
def test_the_server_answers_what_the_graph_does(real: Callable[[str], Evidence], task: str) -> None:
    evidence = real(task)
    assert evidence.rows is not None
    assert evidence.model is not None
    served = evidence.model.served().answer(evidence.rows)
    assert len(served.scores) == len(evidence.y) > 1000
    assert differences(evidence.task, served.scores, evidence.scores).max() == 0
    if task != "regression":
        assert (served.decisions == evidence.decisions).all()


def test_the_server_is_asked_anything_and_timed(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert evidence.model is not None
    server = evidence.model.served()
    status, raw = server.ask("/predict", b'{"rows": []}')
    assert (status, json.loads(raw)) == (422, {"error": "rows is empty."})
    each, all_of_them = server.timed(2, 100, connections=4)
    assert len(each) == 100
    assert 0 < max(each) <= all_of_them
    assert server.ask("/no/path", b"")[0] == 404


def test_training_rows_and_folds_are_there(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert evidence.training is not None
    training = evidence.training()
    assert len(training.y) == len(training.scores) == 1800
    assert set(training.groups) == {"group", "sex"}
    assert (training.scores[training.y == 1].mean()) > np.mean(training.scores)
    assert len(evidence.folds) == 3
