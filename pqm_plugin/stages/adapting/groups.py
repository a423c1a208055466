"""Which speakers learn in the same batches, and which job has them."""

from collections.abc import Sequence
from itertools import batched

from pqm_plugin.errors import PqmError
from pqm_plugin.stages.adapting.speech import SHARES
from pqm_plugin.stages.common.done import size_bytes
from pqm_plugin.stages.common.jobs import n_shares, shares
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.systems import Voices
from pqm_plugin.stages.recipe import Recipe

Groups = list[list[str]]


def speakers_per_batch(recipe: Recipe, voices: Voices) -> int:
    """How many speakers learn in the same batches; controls have no form by row, each learns alone.

    Raises:
        PqmError: if they are fewer than one, or more than a job has.
    """
    if not 1 <= recipe.speakers_per_batch <= recipe.speakers_per_job:
        raise PqmError(
            f"--speakers_per_batch {recipe.speakers_per_batch}: use at least 1, and at most as many as "
            f"--speakers_per_job ({recipe.speakers_per_job})"
        )
    return 1 if voices.control else recipe.speakers_per_batch


def groups_of(material: Material, voices: Voices, todo: Sequence[str]) -> Groups:
    """The groups that have somebody to adapt.

    Whole groups, some of whose speakers may be done: who is in a group must not depend on what an earlier run came to,
    or a run that was cut off would end in other bits. Speakers of about as much work are together, so that they end an
    epoch at about the same step.
    """
    size = speakers_per_batch(material.recipe, voices)
    if size == 1 or not todo:
        return [[speaker] for speaker in todo]
    work = {speaker: work_of(material, speaker) for speaker in material.speakers()}
    ordered = sorted(work, key=lambda speaker: (-work[speaker], speaker))
    return [list(group) for group in batched(ordered, size) if not set(group).isdisjoint(todo)]


def dealt(material: Material, groups: Sequence[Sequence[str]]) -> list[Groups]:
    """The groups of each job, about as much work for all."""
    recipe = material.recipe
    by_name = {group[0]: list(group) for group in groups}
    work = {name: sum(work_of(material, speaker) for speaker in group) for name, group in by_name.items()}
    largest = max(map(len, groups), default=1)
    n = n_shares(len(groups), recipe.nj, recipe.speakers_per_job // largest)
    return [[by_name[name] for name in share] for share in shares(work, n)]


def work_of(material: Material, speaker: str) -> float:
    """About how much there is to learn from: seconds of segments, or else bytes of files, or else utterances."""
    found = [utterance for split in SHARES for utterance in material.utterances(split, speaker)]
    return sum(
        size_bytes(utterance) or 1 if utterance.end_s is None else utterance.end_s - (utterance.start_s or 0)
        for utterance in found
    )
