"""No dependency of any extra may be under the GPL or AGPL, and the list in the documentation names them all."""

from __future__ import annotations

import importlib.metadata
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def test_no_dependency_of_any_extra_is_under_the_gpl(licences):
    found = licences.licences()
    assert len(found) > 50
    assert licences.refused(found) == []


def test_the_list_names_every_direct_dependency(licences):
    """What they ask for in turn differs between systems and Python versions."""
    listed = set(re.findall(r"^\| ([a-z0-9-]+) \|", licences.PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    stated = set(licences.NOT_INSTALLED)
    direct = {
        canonicalize_name(Requirement(text).name)
        for text in importlib.metadata.requires("anomaly-spotter") or []
    } - {"anomaly-spotter"}
    assert direct - listed - stated == set(), "run make licences"


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        ("MIT", False),
        ("LGPL-3.0-only", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("GPL-3.0", True),
        ("AGPL-3.0-or-later", True),
        ("GNU General Public License v2 (GPLv2)", True),
        ("GNU Affero General Public License v3", True),
        ("MIT AND GPL-2.0-only", True),
        ("MIT OR GPL-2.0-only", False),
        ("unknown", True),
    ],
)
def test_what_is_refused(licences, text: str, is_refused: bool):
    assert licences.Licence("package", text, ("core",)).is_refused is is_refused


def test_a_tool_s_exception_does_not_reach_what_users_install(licences):
    tool = next(iter(licences.TOOLS_ONLY))
    assert licences.refused([licences.Licence(tool, "GPL-3.0", ("dev",))]) == []
    assert len(licences.refused([licences.Licence(tool, "GPL-3.0", ("serve",))])) == 1
