"""Counts of samples."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassTally:
    """Counts of a class: `drawn` = accepted + backfilled + rejected samples."""

    drawn: int
    accepted: int
    backfilled: int
    """Rejected samples that fill the class nevertheless (`on_exhausted="backfill"`)."""
    rejected_as: dict[int, int]
    """How many rejected samples the teacher took for which class. The own class stands for too little confidence."""

    @property
    def acceptance(self) -> float:
        """Accepted share of the samples drawn, in [0, 1]; NaN before the first."""
        return self.accepted / self.drawn if self.drawn else float("nan")


def from_native(counts: list[tuple[int, int, int, list[tuple[int, int]]]]) -> list[ClassTally]:
    """Counts as the native module returns them."""
    return [ClassTally(drawn, accepted, backfilled, dict(rejected)) for drawn, accepted, backfilled, rejected in counts]
