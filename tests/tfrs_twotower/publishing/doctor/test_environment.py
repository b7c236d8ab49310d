"""What the doctor says of the process that it runs in."""

import importlib.metadata
from collections.abc import Iterable

from tfrs_twotower.publishing.doctor import Finding, environment
from tfrs_twotower.publishing.doctor.environment import check_environment


def the_error(findings: Iterable[Finding]) -> Finding:
    """The one error, which must have a cure."""
    found = [finding for finding in findings if finding.level == "error"]
    assert len(found) == 1, found
    assert found[0].cure
    return found[0]


def test_versions_that_do_not_belong_together_are_caught(monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "2.21.0" if name == "tensorflow" else version(name),
    )

    error = the_error(check_environment())

    assert error.what == "tensorflow 2.21.0, expected 2.20"


def test_a_cpu_without_the_needed_flags_is_caught(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t: fpu sse2 fma\n")
    monkeypatch.setattr(environment, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(environment.platform, "machine", lambda: "x86_64")

    error = the_error(check_environment())

    assert "lacks avx2" in error.what


def test_a_sound_environment_is_sound():
    findings = list(check_environment())

    assert {(finding.level, finding.where) for finding in findings} == {
        ("ok", "packages"),
        ("ok", "CPU"),
        ("ok", "Keras"),
    }
