"""Where an artifact comes from: source, versions, seconds, hashes."""

from __future__ import annotations

from collections.abc import Iterator

from dcnify.artifact import Artifact
from dcnify.report.quantity import SECONDS
from dcnify.report.view import Column, Fact, Facts, Mark, Part, Table, Text


def origin(record: Artifact) -> Iterator[Part]:
    """Where it comes from: source, versions, seconds, hashes."""
    report, block = record.report, record.config["dcnify"]
    source = report.get("source") or block.get("source") or {}
    facts = [
        Fact("source", source.get("spec"), code=True),
        Fact("base", str(record.base), code=True),
        Fact("seed", report.get("seed")),
        *(Fact(name, version) for name, version in (report.get("versions") or {}).items()),
    ]
    yield Facts(tuple(fact for fact in facts if fact.text))
    if source.get("sha256"):
        yield Text(f"SHA-256 of the source: {source['sha256']}")
    if report.get("seconds"):
        rows = tuple(report["seconds"].items())
        yield Table((Column("step"), Column("took", SECONDS)), rows, "Time of the conversion")
    damaged = record.damaged()
    rows = tuple(
        (
            name,
            Mark("changed since", "bad") if name in damaged else Mark("as written", "good"),
            sha256,
        )
        for name, sha256 in block["files"].items()
    )
    yield Table((Column("file", code=True), Column("is"), Column("SHA-256", code=True)), rows)
