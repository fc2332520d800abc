"""Texts: words and characters, weighed by how much they tell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from typing_extensions import override

from specml.component import Disagreement
from specml.errors import DataCheckFailed
from specml.kinds import Feature, FittedFeature, Training

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import polars as pl

    from specml.data import Column
    from specml.graph import Graph
    from specml.spec import Spec

Unit = Literal["word", "character"]

BETWEEN = r"\x00-/:-@\[-^`{-\x{bf}\x{2000}-\x{206f}\x{3000}-\x{303f}\x{ff00}-\x{ff0f}"
"""What stands between words, as a class of characters: white space and punctuation but for ``_``, of the Latin blocks,
the general and the East Asian ones. Named by their codes, it is the same set for every version of Unicode."""
WORD = re.compile("[^" + re.sub(r"\\x\{(\w+)\}", lambda code: chr(int(code[1], 16)), BETWEEN) + "]+")


def _rising(lengths: tuple[int, int]) -> tuple[int, int]:
    if lengths[0] > lengths[1]:
        raise PydanticCustomError("lengths", "must be the shortest and the longest: [1, 2].")
    return lengths


Lengths = Annotated[
    tuple[Annotated[int, Field(ge=1, le=10)], Annotated[int, Field(ge=1, le=10)]], AfterValidator(_rising)
]


class Text(Feature):
    """Words and characters, and runs of them (n-grams), each a column of its tf-idf weight.

    As scikit-learn's ``TfidfVectorizer``: how often a term stands in the text, times ``ln((1 + n) / (1 + rows with
    it)) + 1``, and all of a text's weights scaled to a length of 1, of words and of characters each. A missing text
    is an empty one.
    """

    treats: ClassVar[tuple[str, ...]] = ("text",)

    type: Literal["text"] = "text"
    words: Lengths | None = (1, 1)
    """Shortest and longest run of words, as ``[1, 2]``; ``null``: none. Words are runs of letters, digits and ``_``."""
    characters: Lengths | None = None
    """The same of characters, spaces included, as ``[2, 4]``; ``null``: none."""
    lowercase: bool = True
    """Whether ``Free`` and ``FREE`` are ``free``; ``FrEe``, and letters whose case has no simple form, stay."""
    max_terms: Annotated[int, Field(ge=1, le=20_000)] = 1000
    """The commonest this many are kept, of words and of characters each."""
    min_rows: Annotated[int, Field(ge=1)] = 2
    """Training rows that a term must stand in; more than one, or a column may name a single row."""

    @override
    def fit(self, column: Column, values: pl.Series, training: Training) -> FittedText:
        wanted: tuple[tuple[Unit, tuple[int, int] | None], ...] = (("word", self.words), ("character", self.characters))
        texts = values.to_list()
        found = tuple(self._terms(unit, lengths, texts) for unit, lengths in wanted if lengths)
        if not any(one.terms for one in found):
            raise DataCheckFailed(
                f"no term stands in {self.min_rows} of {len(texts)} training rows.",
                where=f"features.columns.{column.name}.min_rows",
                hint="Leave the column out, take fewer min_rows, or tell its characters.",
            )
        return FittedText(column.name, tuple(one for one in found if one.terms))

    def _terms(self, unit: Unit, lengths: tuple[int, int], texts: list[str]) -> Terms:
        import numpy as np
        from sklearn.feature_extraction.text import CountVectorizer

        empty = Terms(unit, lengths, self.lowercase, (), ())
        counter = CountVectorizer(analyzer=empty.of)
        try:
            counts = counter.fit_transform(texts)
        except ValueError:  # there is no term in any text
            return empty
        rows, all_terms = np.bincount(counts.indices, minlength=counts.shape[1]), counter.get_feature_names_out()
        often = np.flatnonzero(rows >= self.min_rows)
        # Equally common terms are taken in their order, on every machine.
        common = np.argsort(-np.asarray(counts.sum(axis=0)).ravel()[often], kind="stable")[: self.max_terms]
        kept = np.sort(often[common])
        weights = np.log((1 + len(texts)) / (1 + rows[kept])) + 1
        return Terms(unit, lengths, self.lowercase, tuple(all_terms[kept].tolist()), tuple(weights.tolist()))

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if self.words is None and self.characters is None:
            yield Disagreement(key=("words",), what="is null, and so is characters: nothing is left of the text.")

    @classmethod
    @override
    def restore(cls, state: dict[str, Any]) -> FittedText:
        return FittedText(
            state["name"],
            tuple(
                Terms(
                    one["unit"],
                    (one["lengths"][0], one["lengths"][1]),
                    one["lowercase"],
                    tuple(one["terms"]),
                    tuple(map(float, one["weights"])),
                )
                for one in state["found"]
            ),
        )


@dataclass(frozen=True)
class Terms:
    """The terms of one unit that are kept, in the order of their code points, and the weight of each."""

    unit: Unit
    lengths: tuple[int, int]
    lowercase: bool
    terms: tuple[str, ...]
    weights: tuple[float, ...]

    def of(self, text: str) -> Iterator[str]:
        """Every term of a text, kept or not."""
        units = WORD.findall(text) if self.unit == "word" else text
        known = [_lower(one) for one in units] if self.lowercase else list(units)
        glue = " " if self.unit == "word" else ""
        for length in range(self.lengths[0], self.lengths[1] + 1):
            for start in range(len(known) - length + 1):
                yield glue.join(known[start : start + length])

    def split(self, term: str) -> list[str]:
        """The units of a term."""
        return term.split(" ") if self.unit == "word" else list(term)

    def transform(self, texts: list[str]) -> np.ndarray:
        """float32 [n, terms]."""
        import numpy as np
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.preprocessing import normalize

        counter = CountVectorizer(analyzer=self.of, vocabulary={term: i for i, term in enumerate(self.terms)})
        weighed = counter.transform(texts).multiply(np.array(self.weights)).tocsr()
        return np.asarray(normalize(weighed).astype(np.float32).toarray())

    def to_onnx(self, graph: Graph, value: str) -> str:
        """The same of a string value [n]: float32 [n, terms]."""
        import numpy as np
        from onnx import TensorProto

        units = sorted(set(chain.from_iterable(map(self.split, self.terms))))
        spelt = {way: place for place, unit in enumerate(units) for way in (_ways(unit) if self.lowercase else [unit])}
        how: dict[str, Any] = {"tokenexp": f"[^{BETWEEN}]+"} if self.unit == "word" else {"separators": [""]}
        told: dict[str, Any] = {"domain": "com.microsoft", "dtype": "string", "shape": ["rows", f"{self.unit}s"]}
        tokens = graph.foreign("Tokenizer", value, **told, mark=0, mincharnum=1, pad_value="", **how)
        codes = graph.node(
            "LabelEncoder",
            tokens,
            domain="ai.onnx.ml",
            keys_strings=list(spelt),
            values_int64s=list(spelt.values()),
            default_int64=-1,
        )
        counts = graph.node("TfIdfVectorizer", codes, mode="TF", max_skip_count=0, **self._pool(units))
        # In float64 as in Python: a tree may part two float32 that are neighbours.
        counts = graph.node("Cast", counts, to=TensorProto.DOUBLE)
        weighed = graph.node("Mul", counts, graph.constant(np.array(self.weights, dtype=np.float64)))
        squares = graph.node("ReduceSum", graph.node("Mul", weighed, weighed), graph.constant(np.array([1])))
        tiny = graph.constant(np.array(1e-12, dtype=np.float64))
        scaled = graph.node("Div", weighed, graph.node("Max", graph.node("Sqrt", squares), tiny))
        return graph.node("Cast", scaled, to=TensorProto.FLOAT)

    def _pool(self, units: list[str]) -> dict[str, Any]:
        """The terms as ``TfIdfVectorizer`` takes them: the shorter ones first, as runs of the places of their units."""
        place = {unit: index for index, unit in enumerate(units)}
        runs = [[place[unit] for unit in self.split(term)] for term in self.terms]
        order = sorted(range(len(runs)), key=lambda index: (len(runs[index]), index))
        starts = [sum(len(run) for run in runs if len(run) < n) for n in range(1, self.lengths[1] + 1)]
        return {
            "min_gram_length": self.lengths[0],
            "max_gram_length": self.lengths[1],
            "ngram_counts": starts,
            "ngram_indexes": order,
            "pool_int64s": [code for index in order for code in runs[index]],
        }


def _lower(unit: str) -> str:
    """``unit`` in lower case where it is one of the three ways that its lower case is spelt."""
    lower = unit.lower()
    return lower if unit in (lower, lower.upper(), lower.capitalize()) else unit


def _ways(unit: str) -> list[str]:
    """Every spelling that is ``unit`` to ``_lower``."""
    return [way for way in dict.fromkeys((unit, unit.upper(), unit.capitalize())) if _lower(way) == unit]


@dataclass(frozen=True)
class FittedText(FittedFeature):
    """The terms that are told of a text; those of words before those of characters."""

    name: str
    found: tuple[Terms, ...]

    @property
    @override
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"{self.name}: {one.unit} {term!r}" for one in self.found for term in one.terms)

    @override
    def transform(self, values: pl.Series) -> np.ndarray:
        import numpy as np

        texts = values.to_list()
        return np.hstack([np.zeros((len(texts), 0), np.float32), *(one.transform(texts) for one in self.found)])

    @override
    def to_onnx(self, graph: Graph, value: str) -> str:
        import numpy as np

        flat = graph.node("Squeeze", value, graph.constant(np.array([1])))
        blocks = [one.to_onnx(graph, flat) for one in self.found]
        return graph.node("Concat", *blocks, axis=1)

    @override
    def state(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "found": [
                {
                    "unit": one.unit,
                    "lengths": list(one.lengths),
                    "lowercase": one.lowercase,
                    "terms": list(one.terms),
                    "weights": list(one.weights),
                }
                for one in self.found
            ],
        }
