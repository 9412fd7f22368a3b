"""Counts of samples."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassTally:
    """Counts of a class.

    Attributes:
        drawn: Samples drawn: `accepted` plus all of `rejected_as`.
        accepted: Samples that passed.
        backfilled: Rejected samples that fill the class nevertheless (`on_exhausted="backfill"`).
        rejected_as: Rejected samples, backfilled ones included, by the class that the teacher predicts. Under the class itself are
            those that it recognises, but not above the threshold.
    """

    drawn: int
    accepted: int
    backfilled: int
    rejected_as: dict[int, int]

    @property
    def acceptance(self) -> float:
        """Accepted share of the samples drawn, in [0, 1]; NaN before the first."""
        return self.accepted / self.drawn if self.drawn else float("nan")


def from_native(counts: list[tuple[int, int, int, list[tuple[int, int]]]]) -> list[ClassTally]:
    """Counts as the native module returns them."""
    return [ClassTally(drawn, accepted, backfilled, dict(rejected)) for drawn, accepted, backfilled, rejected in counts]
