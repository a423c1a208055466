"""Who does what: speakers dealt out to jobs."""

import heapq
from collections.abc import Mapping


def n_shares(n_speakers: int, n_parallel: int, speakers_per_job: int) -> int:
    """How many jobs: enough for all processes and none of more than `speakers_per_job` speakers, none without any."""
    return min(n_speakers, max(n_parallel, -(-n_speakers // speakers_per_job)))


def shares(work: Mapping[str, float], n: int) -> list[list[str]]:
    """Deal speakers out to `n` jobs so that every one has about as much work as the others.

    No job gets more speakers than another and one more. The same `work` by speaker gives the same shares.
    """
    n = min(n, len(work))
    dealt: list[list[str]] = [[] for _ in range(n)]
    most = -(-len(work) // n) if n else 0
    least_work = [(0.0, place) for place in range(n)]
    for speaker in sorted(work, key=lambda name: (-work[name], name)):
        done, place = heapq.heappop(least_work)
        dealt[place].append(speaker)
        if len(dealt[place]) < most:
            heapq.heappush(least_work, (done + work[speaker], place))
    return dealt
