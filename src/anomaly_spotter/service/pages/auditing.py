"""What an audit of good pictures found, in the language of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anomaly_spotter.service.pages.words import Words

_SHOWN = 4


def good_count(found: Mapping[str, Any]) -> int:
    """Good pictures that training can use."""
    return max(0, sum(map(int, found["counts"]["train"].values())) - len(found["broken"]))


def facts_of(found: Mapping[str, Any], words: Words) -> list[tuple[str, str]]:
    """Names and values for a list."""
    facts = [
        (words("Pictures"), words.number(sum(found["counts"]["train"].values()))),
        (words("Sizes"), _listed(found["sizes"], words)),
        (words("Kind"), _listed(found["modes"], words)),
    ]
    if tests := sum(found["counts"].get("test", {}).values()):
        facts.append((words("Test pictures, not used"), words.number(tests)))
    return facts


def warnings_of(found: Mapping[str, Any], words: Words) -> list[str]:
    """What should be mended, or at least known, before training."""
    return [*_about_files(found, words), *_about_duplicates(found, words), *_about_tests(found)]


def _about_files(found: Mapping[str, Any], words: Words) -> Iterator[str]:
    if broken := found["broken"]:
        yield words.count(
            len(broken),
            "{n} picture cannot be read and will be left out: {names}.",
            "{n} pictures cannot be read and will be left out: {names}.",
            names=_names([each["path"] for each in broken]),
        )
    if len(found["sizes"]) > 1:
        yield words(
            "The pictures have {n} sizes: {list}. Were they all taken by the same camera?",
            n=len(found["sizes"]),
            list=_listed(found["sizes"], words),
        )
    grey = {mode for mode in found["modes"] if mode[0] in "1LI"}
    if grey and set(found["modes"]) - grey:
        yield words("Grey and colour pictures are mixed: {list}.", list=_listed(found["modes"], words))


def _about_duplicates(found: Mapping[str, Any], words: Words) -> Iterator[str]:
    exact = [pair for pair in found["exact_duplicates"] if not pair["is_across"]]
    near = [pair for pair in found["near_duplicates"] if not pair["is_across"]]
    if exact:
        yield words.count(
            len(exact),
            "{n} picture is there twice, for example {names}; calibration would take it for another part.",
            "{n} pictures are there twice, for example {names}; calibration would take them for other parts.",
            names=_pair(exact),
        )
    if near:
        yield words.count(
            len(near),
            "{n} picture shows the same part again, for example {names}; calibration would take it for another part.",
            "{n} pictures show the same part again, for example {names}; calibration would take them for other parts.",
            names=_pair(near),
        )


def _about_tests(found: Mapping[str, Any]) -> list[str]:
    """Remarks about labelled test pictures, which the station does not use; as the audit has them, in English."""
    return [text for text in found["warnings"] if " test " in f" {text} "]


def _listed(table: Mapping[str, int], words: Words) -> str:
    shown = ", ".join(f"{name} ({words.number(count)})" for name, count in list(table.items())[:_SHOWN])
    return f"{shown}, …" if len(table) > _SHOWN else shown


def _names(paths: Sequence[str]) -> str:
    return ", ".join(paths[:_SHOWN]) + (", …" if len(paths) > _SHOWN else "")


def _pair(pairs: Sequence[Mapping[str, Any]]) -> str:
    return f"{pairs[0]['first']} = {pairs[0]['second']}"
