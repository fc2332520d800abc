"""Verdicts as JUnit XML, which CI systems show: one test case a gate."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from specml import admission
from specml.verdicts import ranked

if TYPE_CHECKING:
    from specml.errors import SpecmlError

FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML can't carry, not even escaped."""


def xml(name: str, gates: dict[str, Any], bundle: str, error: SpecmlError | None = None) -> bytes:
    """The document: a gate that stops the release fails; one that is only told, or that a waiver lets pass, is skipped.

    ``error``: what the command ended in; where that is no gate's refusal, a test case of its own tells it.
    """
    suites = ET.Element("testsuites")
    suite = ET.SubElement(suites, "testsuite", name=_clean(name))
    properties = ET.SubElement(suite, "properties")
    ET.SubElement(properties, "property", name="bundle", value=bundle)
    for gate, verdict in sorted(gates.items()):
        _case(suite, name, gate, verdict)
    if error is not None and not any(map(admission.stops, gates.values())):
        case = ET.SubElement(suite, "testcase", classname=_clean(name), name="specml", time="0")
        ET.SubElement(case, "error", message=_clean(error.what), type=type(error).__name__).text = _clean(str(error))
    for element in (suites, suite):
        for count, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            if (element, count) != (suites, "skipped"):  # which the schema has for a suite only
                element.set(count, str(len(list(suite.iter(tag)))))
        element.set("time", "0")
    ET.indent(suites)
    return bytes(ET.tostring(suites, encoding="utf-8", xml_declaration=True)) + b"\n"


def _case(suite: ET.Element, name: str, gate: str, verdict: dict[str, Any]) -> None:
    case = ET.SubElement(suite, "testcase", classname=_clean(f"{name}.{verdict['type']}"), name=_clean(gate), time="0")
    told = "\n".join(_lines(verdict))
    if admission.stops(verdict):
        found = ET.SubElement(case, "failure", message=_clean(verdict["reason"]), type=verdict["outcome"])
        found.text = _clean(told)
        return
    if verdict["outcome"] != "holds":
        waiver = verdict.get("waiver")
        why = f"waived {admission.words(waiver)}" if waiver else "told only"
        message = f"{verdict['outcome']}, {why}. {verdict['reason']}"
        ET.SubElement(case, "skipped", message=_clean(message))
    ET.SubElement(case, "system-out").text = _clean(told)


def _lines(verdict: dict[str, Any]) -> list[str]:
    interval = verdict["interval"]
    lines = [verdict["reason"], f"wanted: {verdict['threshold'] or 'nothing'}", f"rows: {verdict['n']}"]
    if verdict["value"] is not None:
        ends = f", {interval['low']:.6g} to {interval['high']:.6g} ({interval['method']})" if interval else ""
        lines.append(f"value: {verdict['value']:.6g}{ends}")
    if verdict["slices"]:
        worst = ranked(verdict)[0]
        value = "" if worst["value"] is None else f", {worst['value']:.6g}"
        lines.append(f"worst: {worst['name']}: {worst['outcome']}{value}, {worst['n']} rows")
    if verdict["rows"]:
        lines.append(f"held-out rows behind it: {', '.join(map(str, verdict['rows']))}")
    return lines


def _clean(text: str) -> str:
    return FORBIDDEN.sub("\ufffd", text)
