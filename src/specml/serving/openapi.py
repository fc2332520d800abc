"""The server's interface as OpenAPI 3.1, typed from the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specml.bundle import quantile_name
from specml.data import TEXT_READ, in_words, iso, looks_back, seconds
from specml.serving import picture
from specml.serving.announce import example, example_row
from specml.serving.history import KEY, only_told
from specml.serving.infer import NUMBERS, metadata
from specml.serving.request import shares
from specml.serving.tabular import ARROW, CSV

if TYPE_CHECKING:
    from specml.bundle import Contract
    from specml.data import Column

TOLD = 20
"""Most categories told of a column."""


def openapi(
    contract: Contract,
    *,
    version: str,
    max_rows: int,
    max_body: int,
    explained_rows: int,
    secured: bool,
    notice: dict[str, str],
    labels: bool = False,
    ignore_unknown: bool = False,
) -> dict[str, Any]:
    """The document that ``/openapi.json`` answers.

    ``explained_rows``: most rows of ``/explain``, 0 where it is off; ``notice``: what every answer tells;
    ``labels``: whether ``/feedback`` takes them; ``ignore_unknown``: whether a row may have other columns.
    """
    row = {
        "type": "object",
        "additionalProperties": ignore_unknown,
        "properties": {column.name: _column(column) for column in contract.inputs}
        | _history(contract)
        | _image(contract),
        "required": [column.name for column in contract.inputs if not (column.nullable or _pixel(column, contract))],
    }
    model, anything = f"/v2/models/{contract.name}", {"type": "object"}
    paths = {
        "/predict": {"post": _predict(contract, row, max_rows, notice)},
        "/explain": {"post": _explain(contract, row, explained_rows, notice)},
        "/feedback": {"post": _feedback(contract, max_rows)},
        "/docs": {"get": _operation("This document as a page, with a form.", None, open_to_all=True, kind="text/html")},
        "/openapi.json": {"get": _operation("This document.", anything)},
        "/metrics": {"get": _operation("What this replica has done, as Prometheus text.", None)},
        "/healthz": {"get": _operation("What this replica serves.", anything, open_to_all=True)},
        "/v2": {"get": _operation("The server (Open Inference Protocol v2).", anything)},
        "/v2/health/live": {"get": _operation("Whether the server is alive.", anything, open_to_all=True)},
        "/v2/health/ready": {"get": _operation("Whether it answers requests.", anything, open_to_all=True)},
        model: {"get": _operation("The model's tensors.", anything)},
        f"{model}/ready": {"get": _operation("Whether the model answers requests.", anything)},
        f"{model}/infer": {"post": _infer(contract, max_rows, notice)},
    }
    if not explained_rows:
        del paths["/explain"]
    if not labels:
        del paths["/feedback"]
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    asked = in_words(contract.task, contract.history)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": contract.name,
            "version": version,
            "description": f"Predicts {contract.target} ({asked}) with {contract.candidate}.",
        },
        "paths": paths,
        "components": {"schemas": {"Error": error}},
        "x-limits": _limits(max_rows, max_body, explained_rows),
    }
    if secured:
        document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"bearer": []}]
    return document


def _limits(max_rows: int, max_body: int, explained_rows: int) -> list[str]:
    """What a request may hold, in words."""
    told = [f"{max_rows:,} rows in one request, and {max_body:,} bytes."]
    return told + ([f"{explained_rows:,} rows in one request for explanations."] if explained_rows else [])


def _predict(contract: Contract, row: dict[str, Any], most: int, notice: dict[str, str]) -> dict[str, Any]:
    asked = _rows(contract, row, most, _shared(contract))
    identity = "Of the request, as the header x-request-id names it; its rows are ID-0, ID-1, …"
    given = {
        "id": {"type": "string", "description": identity},
        "model": {"type": "string"},
        "bundle": {"type": "string", "description": "Digest of the bundle that answered."},
        "predictions": {"type": "array", "items": _prediction(contract)},
    }
    told = _operation("Predict rows of named columns.", _answer(given, notice), body=asked)
    for kind, how in (
        (CSV, "The first line names the columns; an empty field is missing. Answered so where `Accept` asks for it."),
        (ARROW, "An IPC stream, not compressed. Answered so where `Accept` asks for it."),
    ):
        for content in (told["requestBody"]["content"], told["responses"]["200"]["content"]):
            content[kind] = {"schema": {"type": "string", "description": how}}
    return told


def _rows(contract: Contract, row: dict[str, Any], most: int, others: dict[str, Any]) -> dict[str, Any]:
    """A body: rows as objects, or as arrays of values whose columns are named once; ``others``: what else it has."""
    example = example_row(contract)
    columns = {"type": "array", "uniqueItems": True, "items": {"enum": list(row["properties"])}}
    values = {"type": "array", "description": "A value for each of columns."}
    return {
        "oneOf": [
            {
                "type": "object",
                "additionalProperties": False,
                "required": [*first, "rows"],
                "properties": {
                    **first,
                    "rows": {"type": "array", "minItems": 1, "maxItems": most, "items": one},
                    **others,
                },
            }
            for first, one in (({}, row), ({"columns": columns}, values))
        ],
        "examples": [{"rows": [example]}, {"columns": list(example), "rows": [list(example.values())]}],
    }


def _infer(contract: Contract, most: int, notice: dict[str, str]) -> dict[str, Any]:
    told, text = metadata(contract, ""), {"type": "string"}
    flag, options = {"type": "boolean"}, {"type": "object"}
    rows = {"type": "integer", "minimum": 1, "maximum": most}
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"enum": [one["name"] for one in told["inputs"]]},
            "shape": {"type": "array", "minItems": 1, "maxItems": 2, "prefixItems": [rows, {"const": 1}]},
            "datatype": {"enum": [*NUMBERS, "BYTES"], "description": "BYTES for texts and categories only."},
            "data": {"type": "array", "description": "One value for each row; null is missing."},
            "parameters": {**options, "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}},
        },
    }
    wanted = {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"enum": list(contract.outputs())},
            "parameters": {**options, "properties": {"binary_data": flag}},
        },
    }
    asked: dict[str, Any] = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": text,
            "parameters": {**options, "properties": {"binary_data_output": flag}},
            "inputs": {"type": "array", "minItems": 1, "items": tensor},
            "outputs": {"type": "array", "items": wanted},
        },
    }
    if len(contract.inputs) <= TOLD:
        asked["examples"] = [{"inputs": [_tensor(column) for column in contract.inputs]}]
    answered = {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"enum": list(contract.outputs())},
            "datatype": {"enum": sorted({one["datatype"] for one in told["outputs"]})},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
            "data": {"type": "array"},
        },
    }
    given: dict[str, Any] = dict.fromkeys(("id", "model_name", "model_version"), text)
    given["outputs"] = {"type": "array", "items": answered}
    if notice:
        given["parameters"] = {**options, "required": list(notice)}
    answer = {"type": "object", "required": list(given), "properties": given}
    operation = _operation("Predict tensors (Open Inference Protocol v2).", answer, body=asked)
    about = "With the extension of binary tensors: the same in JSON, and behind it the bytes of tensors."
    for content in (operation["requestBody"]["content"], operation["responses"]["200"]["content"]):
        content["application/octet-stream"] = {"schema": {"type": "string", "description": about}}
    return operation


def _tensor(column: Column) -> dict[str, Any]:
    """A plausible tensor of one row."""
    value = example(column)
    if column.kind == "datetime":
        value = seconds(value)
    kind = "BYTES" if column.tensor == "string" else "BOOL" if column.kind == "boolean" else "FP64"
    return {"name": column.name, "shape": [1, 1], "datatype": kind, "data": [value]}


def _explain(contract: Contract, row: dict[str, Any], most: int, notice: dict[str, str]) -> dict[str, Any]:
    space = contract.explained.space
    known: dict[str, Any] = {
        "top": {"type": "integer", "minimum": 1, "description": "Columns told of each row; all unless said."},
    }
    known |= _shared(contract)
    if contract.classes:
        default = "the positive class" if contract.task == "binary" else "the class that is decided"
        known["class"] = {"enum": list(contract.classes), "description": f"What is explained; {default} unless said."}
    asked = _rows(contract, row, most, known)
    number = {"type": "number"}
    move = {"type": "object", "properties": {"column": {"type": "string"}, "contribution": number}}
    others = {"type": "object", "properties": {"columns": {"type": "integer"}, "contribution": number}}
    told = {
        "type": "object",
        "required": ["prediction", "base", "contributions", "total"],
        "properties": {
            "prediction": _prediction(contract),
            "class": {"enum": list(contract.classes)},
            "base": {**number, "description": f"What the contributions are added to ({space})."},
            "contributions": {"type": "array", "items": move, "description": "The columns that move it most first."},
            "others": {**others, "description": "The columns that are not told, together."},
            "total": {**number, "description": f"Base and all contributions together: the {space} of the row."},
        },
    }
    texts = {name: {"type": "string"} for name in ("id", "model", "bundle", "method", "space")}
    given = _answer({**texts, "explanations": {"type": "array", "items": told}}, notice)
    return _operation("Say what moves the answers to rows of named columns.", given, body=asked)


def _feedback(contract: Contract, most: int) -> dict[str, Any]:
    about = "The id of the answer and the row's place in it, from 0: ID-0, ID-1, …"
    label = {"type": "number"} if contract.task == "regression" else {"enum": list(contract.classes)}
    one = {
        "type": "object",
        "additionalProperties": False,
        "required": ["id", contract.target],
        "properties": {"id": {"type": "string", "description": about}, contract.target: label},
    }
    asked = {
        "type": "object",
        "additionalProperties": False,
        "required": ["labels"],
        "properties": {"labels": {"type": "array", "minItems": 1, "maxItems": most, "items": one}},
        "examples": [{"labels": [{"id": "0c5a-0", contract.target: (contract.classes or (1.5,))[-1]}]}],
    }
    given = {"type": "object", "required": ["kept"], "properties": {"kept": {"type": "integer"}}}
    told = _operation("Bring labels of answered rows that came late.", given, body=asked)
    told["responses"]["202"] = told["responses"].pop("200")
    return told


def _answer(properties: dict[str, Any], notice: dict[str, str]) -> dict[str, Any]:
    """The schema of an answer, which always has all of it, and the notice where there is one."""
    if notice:
        texts = {name: {"const": text} for name, text in notice.items()}
        properties = {**properties, "notice": {"type": "object", "required": list(notice), "properties": texts}}
    return {"type": "object", "required": list(properties), "properties": properties}


def _operation(
    summary: str,
    answer: dict[str, Any] | None,
    *,
    body: dict[str, Any] | None = None,
    open_to_all: bool = False,
    kind: str = "text/plain",
) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": answer}} if answer is not None else {kind: {}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "The answer.", "content": content},
            "4XX": {"description": "The request is refused; the error says why.", "content": error},
            "503": {"description": "The server is not ready.", "content": error},
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if open_to_all:
        operation["security"] = []
    return operation


def _history(contract: Contract) -> dict[str, Any]:
    """The rows before a row, where the model looks back, and what a row may say of itself for their sake."""
    told = contract.history
    if told is None:
        return {}
    steps = [(column, step) for column in contract.inputs if (step := looks_back(column.name))]
    read = {step[0]: _column(column.model_copy(update={"name": step[0]})) for column, step in reversed(steps)}
    others = {column.name for column in contract.inputs if not looks_back(column.name)} - {told.time, *told.by}
    where = {told.time: "Compared, where it is said: it may not fall."} | dict.fromkeys(
        told.by, "The same in all rows."
    )
    group = f" of the same {' and '.join(told.by)}" if told.by else ""
    about = (
        f"The rows{group} before this one, by {told.time}, oldest first. Of more than {told.rows} the latest "
        f"{told.rows} count; what fewer lack is missing."
    )
    if told.steps:
        where = dict.fromkeys((told.time, *told.by), "Needed: by it a row is found.")
        about = (
            f"The rows{group} up to {told.rows} steps before this one; by {told.time} they are found. What lacks is "
            f"missing, but the latest is to be no more than {told.steps.horizon} steps earlier."
        )
    row = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **{name: {"description": "Not read."} for name in sorted(others)},
            **{name: {"description": what} for name, what in where.items()},
            **read,
        },
    }
    own = dict.fromkeys(told.by, "Of which group the row is: all of its history are of the same.")
    own[told.time] = "When the row is: all of its history is earlier."
    if told.steps:
        own[told.time] = "When the row is: by it the model finds what was before."
    # Without a type, by which clients tell them from the columns of the model.
    beside = {name: {"description": f"{own[name]} May be left out."} for name in only_told(contract)}
    before = {"type": "array", "items": row, "description": about, "x-history": told.model_dump(mode="json")}
    return {**beside, KEY: before}


def _shared(contract: Contract) -> dict[str, Any]:
    """The history that all rows of a body may have, of a forecast."""
    if not shares(contract):
        return {}
    about = "The rows of all series before the rows that bring none of their own; as theirs."
    return {KEY: {**_history(contract)[KEY], "description": about}}


def _pixel(column: Column, contract: Contract) -> bool:
    """Whether an image tells the column."""
    return contract.image is not None and column.name in contract.image.names


def _image(contract: Contract) -> dict[str, Any]:
    """The image that a row may carry, where the model was trained on images."""
    if contract.image is None:
        return {}
    side = contract.image.side
    about = (
        f"A file in base64 (PNG, JPEG, GIF, BMP, WebP), in place of the columns of its {side} × {side} areas: "
        f"it becomes those as the training images did."
    )
    # Without a type, as what places a row.
    return {picture.KEY: {"contentEncoding": "base64", "contentMediaType": "image/*", "description": about}}


def _column(column: Column) -> dict[str, Any]:
    types = {
        "numeric": ["number"],
        "boolean": ["boolean"],
        "categorical": ["string", "number", "boolean"],
        "datetime": ["string"],
        "text": ["string"],
    }[column.kind]
    about = []
    if step := looks_back(column.name):
        about.append(f"What {step[0]} was {step[1]} rows before; {KEY} tells it as well.")
    if column.kind == "datetime":
        seen = f" Seen in training: {iso(column.minimum or 0)} to {iso(column.maximum or 0)}."
        about.append("A date or time as in ISO 8601; without a zone it is UTC." + seen)
    if column.kind == "text":
        about.append(f"Of a text, {TEXT_READ:,} characters are read.")
    if column.kind == "numeric" and column.minimum is not None and column.maximum is not None:
        whole = " whole numbers" if column.integral else ""
        about.append(f"Seen in training:{whole} from {column.minimum:g} to {column.maximum:g}.")
    if column.categories:
        more = f" and {len(column.categories) - TOLD} more" if len(column.categories) > TOLD else ""
        about.append(f"Seen in training: {', '.join(column.categories[:TOLD])}{more}.")
    if column.nullable:
        types.append("null")
        about.append("May be left out or null when missing.")
    schema: dict[str, Any] = {"type": types[0] if len(types) == 1 else types, "examples": [example(column)]}
    schema["examples"] += [one for one in column.categories[:TOLD] if one not in schema["examples"]]
    if column.kind == "datetime":
        schema["format"] = "date-time"
    if about:
        schema["description"] = " ".join(about)
    return schema


def _prediction(contract: Contract) -> dict[str, Any]:
    if contract.task == "regression":
        told: dict[str, dict[str, Any]] = {name: {"type": "number"} for name in contract.outputs()}
        if (share := contract.prediction_interval) is not None:
            for name in ("lower", "upper"):
                told[name]["description"] = f"The {name} end of an interval that is to hold {share:.4g} of the values."
        for level in contract.quantiles:
            told[quantile_name(level)]["description"] = f"Of all rows like this one, {level:.4g} lie no higher."
        return {"type": "object", "required": list(told), "properties": told}
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    properties: dict[str, Any] = {
        "label": {"enum": list(contract.classes)},
        "probabilities": {"type": "object", "additionalProperties": probability},
    }
    if band := contract.abstain_band:
        about = f"null: no decision, for the probability is {band[0]:g} or more, and below {band[1]:g}."
        properties["label"] = {"enum": [*contract.classes, None], "description": about}
    if contract.task == "binary":
        properties["probability"] = {**probability, "description": f"Of the class {contract.classes[-1]!r}."}
    return {"type": "object", "required": list(properties), "properties": properties}
