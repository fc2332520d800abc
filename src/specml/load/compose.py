"""Presets, spec and overrides, composed by Hydra, each value with its origin.

Hydra is given the shape of the files only: in the place of every value stands the mark of the layer that
sets it (``L0`` for a file, ``O0`` for an override). What Hydra composes then says which layer won at each
path, and neither its YAML 1.1 nor its interpolations nor its ``_target_`` ever meet a user's text.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

from specml.document import Path, quoted
from specml.errors import Problem, SpecError, first_line
from specml.load.layers import Layer, drop_old_variants, long, marked, nested, values
from specml.load.overrides import Setting, parse
from specml.load.presets import Presets, defaults_of
from specml.load.reference import dotted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from specml.document import Document

ORDER = "__specml__"
"""The root key under which each file signs: it tells the order in which Hydra merged them."""


@dataclass(frozen=True)
class Composed:
    """The tree of values, and where each of them was set."""

    tree: dict[str, Any]
    origins: dict[Path, str]
    files: frozenset[str]
    """The project's preset files that were read, relative to its folder."""


def compose(spec: Document, folder: File, overrides: Sequence[str]) -> Composed:
    """``spec`` with the presets that it lists and with ``overrides``.

    Raises:
        SpecError: a preset or an override can't be used.
    """
    presets = Presets(folder)
    listed = defaults_of(spec, presets)
    settings, choices = _settings(overrides, presets, dict(listed))
    files: list[Layer] = []
    names: dict[tuple[str, str], Layer] = {}
    for group, options in choices.items():
        for option in options:
            preset = presets.read(group, option)
            names[group, option] = Layer(f"L{len(files)}", long(preset.tree), preset.places, (group,))
            files.append(names[group, option])
    own = {key: value for key, value in spec.tree.items() if key != "defaults"}
    files.append(Layer(f"L{len(files)}", long(own), spec.places))
    if not (listed or settings):  # a file alone needs no composing, and Hydra costs as much as all the rest
        origins: dict[Path, str] = {}
        tree = values(marked(files[-1].tree, files[-1].mark), (), files, origins)
        return Composed(tree, origins, frozenset())
    set_by = [
        Layer(f"O{index}", long(nested(setting.path, setting.value)), {setting.path: setting.where}, setting.path)
        for index, setting in enumerate(settings)
    ]
    with tempfile.TemporaryDirectory(prefix="specml-") as scratch:
        for (group, option), layer in names.items():
            _write(File(scratch, group, f"{option}.yaml"), layer, [])
        for group in listed:  # even one that an override empties must be known as a group
            File(scratch, group).mkdir(exist_ok=True)
        defaults = [*({group: list(options)} for group, options in listed.items()), "_self_"]
        _write(File(scratch, "spec.yaml"), files[-1], defaults)
        marks = _composed_by_hydra(File(scratch), settings, set_by, listed)
    order = list(marks.pop(ORDER))
    files.sort(key=lambda layer: order.index(layer.mark))
    valued = [one for one, by in zip(set_by, settings, strict=True) if not by.deletes and by.options is None]
    layers = [*files, *valued]
    ranks = {layer.mark: min(rank, len(files)) for rank, layer in enumerate(layers)}
    drop_old_variants(marks, (), layers, ranks)
    origins = {setting.path: setting.where for setting in settings if setting.deletes}
    tree = values(marks, (), layers, origins)
    return Composed(tree, origins, frozenset(presets.files))


def tuples(node: Any) -> Any:
    """``node`` with tuples for lists: pydantic's strict mode takes nothing else for the language's tuples."""
    if isinstance(node, dict):
        return {key: tuples(item) for key, item in node.items()}
    return tuple(map(tuples, node)) if isinstance(node, (list, tuple)) else node


def _settings(
    overrides: Sequence[str], presets: Presets, choices: dict[str, tuple[str, ...]]
) -> tuple[list[Setting], dict[str, tuple[str, ...]]]:
    """The overrides read, and the presets chosen after them."""
    settings: list[Setting] = []
    problems: list[Problem] = []
    for text in overrides:
        found = parse(text, presets, choices)
        if isinstance(found, Problem):
            problems.append(found)
            continue
        settings.append(found)
        if found.options is not None:
            choices[str(found.path[0])] = found.options
    if problems:
        raise SpecError(problems)
    return settings, choices


def _write(file: File, layer: Layer, defaults: list[Any]) -> None:
    """The shape of a layer as a file for Hydra; its groups need no packages since all paths start at the root."""
    file.parent.mkdir(exist_ok=True)
    shape = {**marked(layer.tree, layer.mark), ORDER: {layer.mark: layer.mark}}
    if defaults:
        shape["defaults"] = defaults
    file.write_text(f"# @package _global_\n{_written(shape)}\n", encoding="utf-8")


def _written(node: Any) -> str:
    """A shape in YAML that no reader can take for something else: all text is quoted."""
    if isinstance(node, dict):
        return "{" + ", ".join(f"{quoted(key)}: {_written(item)}" for key, item in node.items()) + "}"
    if isinstance(node, list):
        return f"[{', '.join(map(_written, node))}]"
    return quoted(node)


def _line(setting: Setting, layer: Layer, listed: Mapping[str, Any]) -> str:
    """An override as Hydra is given it: with marks for values, and without the need of a ``+``."""
    from hydra.core.override_parser.types import Override

    key = dotted(setting.path)
    if setting.options is not None:
        return f"{'' if key in listed else '+'}{key}=[{','.join(setting.options)}]"
    if setting.deletes:
        return f"~{key}"
    return f"++{key}={Override._get_value_element_as_str(marked(layer.holds(setting.path), layer.mark))}"


def _composed_by_hydra(
    scratch: File, settings: list[Setting], set_by: list[Layer], listed: Mapping[str, Any]
) -> dict[str, Any]:
    lines = [_line(setting, layer, listed) for setting, layer in zip(settings, set_by, strict=True)]
    # Of several choices in one group the last counts; Hydra takes each group once.
    last = {setting.path: index for index, setting in enumerate(settings) if setting.options is not None}
    kept = [
        (setting, line)
        for index, (setting, line) in enumerate(zip(settings, lines, strict=True))
        if setting.options is None or last[setting.path] == index
    ]
    try:
        return _hydra(scratch, [line for _, line in kept])
    except _Uncomposed as error:
        raise SpecError([_culprit(scratch, kept, error)]) from None


class _Uncomposed(Exception):
    """Hydra can't apply the overrides."""


def _hydra(scratch: File, lines: list[str]) -> dict[str, Any]:
    """What Hydra composes of the shapes.

    Raises:
        _Uncomposed: an override can't be applied.
    """
    from hydra import compose as compose_by_hydra
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    with _no_trace(), initialize_config_dir(str(scratch), job_name="specml", version_base="1.3"):
        try:
            config = compose_by_hydra("spec", lines)
        except (HydraException, OmegaConfBaseException) as error:
            raise _Uncomposed(first_line(error)) from None
        found: Any = OmegaConf.to_container(config, resolve=False)
    return {str(key): _textual(item) for key, item in dict(found).items()}


def _textual(node: Any) -> Any:
    return {str(key): _textual(item) for key, item in node.items()} if isinstance(node, dict) else node


@contextlib.contextmanager
def _no_trace() -> Iterator[None]:
    """Hydra sets resolvers and a version for the whole process: put back what was there."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.version import VersionBase
    from omegaconf import OmegaConf

    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    resolvers = {name for name in ("now", "hydra", "python_version") if OmegaConf.has_resolver(name)}
    version = VersionBase.instance().version_base
    try:
        yield
    finally:
        GlobalHydra.instance().clear()
        if outer is not None:
            GlobalHydra.instance().initialize(outer)
        VersionBase.instance().version_base = version
        for name in {"now", "hydra", "python_version"} - resolvers:
            OmegaConf.clear_resolver(name)


def _culprit(scratch: File, kept: list[tuple[Setting, str]], error: Exception) -> Problem:
    """The first override that Hydra can't apply, in our words."""
    lines = [line for _, line in kept]
    marks = _hydra(scratch, [])
    for count, (setting, _) in enumerate(kept, start=1):
        try:
            marks = _hydra(scratch, lines[:count])
        except _Uncomposed as refused:
            return _told(setting, marks, str(refused))
    return Problem("overrides", "", f"can't be applied: {error}")


def _told(setting: Setting, marks: dict[str, Any], reason: str) -> Problem:
    node: Any = marks
    for depth, key in enumerate(setting.path):
        if setting.deletes and (not isinstance(node, dict) or key not in node):
            near = get_close_matches(
                str(key), [name for name in node if name != ORDER] if isinstance(node, dict) else [], n=1
            )
            hint = f"Did you mean {dotted((*setting.path[:depth], near[0]))!r}?" if near else ""
            return Problem(setting.where, dotted(setting.path), "is not there, so it can't be deleted.", hint)
        node = node.get(key) if isinstance(node, dict) else None
    return Problem(setting.where, dotted(setting.path), f"can't be applied: {reason}")
