"""Texts are split and weighed alike in Python and in the graph, whatever stands in them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from specml.bundle import audit
from specml.data import MISSING, TEXT_READ, Column, feature_array, feature_values
from specml.errors import DataCheckFailed
from specml.features.text import WORD, FittedText, Text
from specml.files import canonical_json
from specml.graph import Graph
from specml.kinds import Preference, Training

TRAINING = Training(Preference("native", "none", "ordinal"), np.zeros(0), "binary")
COLUMN = Column(name="message", kind="text", nullable=True)
SEEN = [
    "Free entry!! WIN £1000, don't wait: call 0800-123",
    "free FREE Free fReE",
    "win win WIN now",
    "call me at home, don't",
    "",
    "   ",
    "Äpfel äpfel ÄPFEL",
    "Straße STRASSE straße",
    "日本語 テキスト。日本語",
    "日本語",
    "😀 😀 emoji",
    "emoji👩‍👩‍👧 😀",
    "a_b a_b c-d",
    "İstanbul istanbul ıstanbul",
    "ﬁne FINE fine",
    "ǅ ǆ Ǆ",
    "ΣΑΣ σας σασ",
    "nul\x00nul nul",
    "a\u0301 á á a\u0301",
] * 2
ODD = [
    "",
    " ",
    "\x00",
    "never",
    "FREE ENTRY free\x00entry",
    "\ufeffbom free",
    "\u2028free\u2029win",
    "free\u00a0win\u3000call",
    "�\uffff\U0010ffff",
    "a" * 5000,
    "free " * 3000,
    "ﬀ ŉ ẞ ß SS ss Ss",
    "ᾳ ᾼ ΑΙ",
    "İ i̇ I ı i",
    "\r\n\tfree\x0bwin\x0c",
    "_ __ _a",
    "👩‍👩‍👧👩‍👩‍👧",
    "FrEe",
    "ＦＲＥＥ！ｆｒｅｅ",
    "don’t don't",
    "\U0001d49c \U0001d49c",
    "\u0085free\u200bwin\u2060call",
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"words": (1, 3), "min_rows": 1},
    {"words": None, "characters": (1, 1), "min_rows": 1},
    {"words": (2, 2), "characters": (2, 4), "max_terms": 300},
    {"characters": (3, 3), "lowercase": False, "min_rows": 1, "max_terms": 40},
]


def in_graph(fitted: FittedText, texts: list[str]) -> np.ndarray:
    graph = Graph("text")
    graph.output("out", fitted.to_onnx(graph, graph.input("message", "string")), "float32", len(fitted.names))
    audit(graph.to_bytes(), "here")
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(graph.to_bytes(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["out"], {"message": np.array(texts, dtype=object).reshape(-1, 1)})[0])


def agrees(fitted: FittedText, texts: list[str]) -> None:
    out = fitted.transform(pl.Series(texts, dtype=pl.String))
    assert np.abs(out - in_graph(fitted, texts)).max() <= 1e-6


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_texts_are_equal_in_the_graph(options: Any) -> None:
    fitted = Text(**options).fit(COLUMN, pl.Series(SEEN), TRAINING)
    agrees(fitted, [*SEEN, *ODD])
    # To the last bit, or a tree decides otherwise.
    assert np.array_equal(fitted.transform(pl.Series(SEEN)), in_graph(fitted, SEEN))
    for alone in ODD:
        agrees(fitted, [alone])
    agrees(fitted, ["", " "])
    assert Text.restore(json.loads(canonical_json(fitted.state()))) == fitted


ANY = st.text(st.characters(codec="utf-8"), max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.lists(ANY, min_size=1, max_size=8), st.lists(ANY, min_size=1, max_size=8), st.sampled_from(OPTIONS))
def test_any_texts_are_equal_in_the_graph(seen: list[str], texts: list[str], options: Any) -> None:
    feature = Text(**{**options, "min_rows": 1})
    try:
        fitted = feature.fit(COLUMN, pl.Series(seen, dtype=pl.String), TRAINING)
    except DataCheckFailed:
        return
    agrees(fitted, [*seen, *texts, *(one.swapcase() for one in seen), *(one.title() for one in seen)])


def test_weights_are_those_of_scikit_learn() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [one for one in SEEN if one.isascii()]
    fitted = Text(words=(1, 2)).fit(COLUMN, pl.Series(texts), TRAINING)
    theirs = TfidfVectorizer(token_pattern=WORD.pattern, ngram_range=(1, 2), min_df=2)
    expected = theirs.fit_transform([one.replace("fReE", "x") for one in texts]).toarray()
    names = [f"message: word {term!r}" for term in theirs.get_feature_names_out()]
    kept = [names.index(name) for name in fitted.names if name in names]
    rows = [row for row, text in enumerate(texts) if "fReE" not in text]
    ours = fitted.transform(pl.Series(texts))[:, [name in names for name in fitted.names]]
    assert len(kept) > 10
    assert np.allclose(ours[rows], expected[rows][:, kept], atol=1e-6)


def test_the_commonest_terms_are_kept_and_single_rows_are_not_named() -> None:
    fitted = Text(max_terms=2).fit(COLUMN, pl.Series(["b a", "b a c", "c b", "secret"]), TRAINING)
    assert fitted.names == ("message: word 'a'", "message: word 'b'")


def test_no_term_at_all_is_told() -> None:
    with pytest.raises(DataCheckFailed, match="no term stands in 2 of 3"):
        Text().fit(COLUMN, pl.Series(["one", "two", ""]), TRAINING)


def test_lengths_rise() -> None:
    with pytest.raises(ValidationError, match="the shortest and the longest"):
        Text(words=(2, 1))


def test_a_missing_text_is_empty_and_a_long_one_is_cut() -> None:
    table = pl.DataFrame({"message": [None, MISSING, "ä" * (TEXT_READ + 5), "x"]})
    assert feature_values(table, COLUMN).to_list() == ["", "", "ä" * TEXT_READ, "x"]
    assert feature_array(table, COLUMN).dtype == object
