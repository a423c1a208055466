"""Stage 7: score every decoded system, on the same utterances."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pqm_plugin.corpus.audio import duration_s
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, write_json, write_text
from pqm_plugin.metrics.bootstrap import Comparison, Resampled, count_speakers, resample
from pqm_plugin.metrics.icefall import errs_txt, recogs_txt, wer_summary_txt
from pqm_plugin.metrics.normalize import ENGLISH, normalizer_of
from pqm_plugin.metrics.sclite import by_sclite, read_trn, result_txt, write_trn
from pqm_plugin.metrics.wer import ErrorCounts, ScoredUtterance, add, as_characters, counts_of, total
from pqm_plugin.quantize.modes import META
from pqm_plugin.report.tables import BASE, OTHERS, OWN, ordered, others_of
from pqm_plugin.stages.adapt import SHARES, allowed_speech
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.opening import weights_hash
from pqm_plugin.stages.common.provenance import provenance
from pqm_plugin.stages.common.systems import trust_adapters
from pqm_plugin.stages.recipe import OVERLAP, Recipe

_REFERENCES = ("full", "nf4")
_PAIRS = (
    ("nf4+sat", "full+sat"),
    ("nf4+speaker", "nf4+sat"),
    ("nf4+speaker", "nf4+other"),
    ("nf4+speaker", "full+sat"),
    ("nf4+speaker", "full+speaker"),
    ("nf4+speaker-unsup", "nf4+sat"),
    ("nf4+speaker-unsup", "nf4+speaker"),
    ("full+speaker", "full+sat"),
    ("full+copy", "full+sat"),
    ("nf4+speaker", "full+copy"),
    ("nf4+speaker", "full+espnet-lora"),
)


@dataclass(frozen=True)
class Errors:
    """The errors of every system in each utterance, and resampled."""

    counted: Mapping[str, Sequence[ErrorCounts]]
    resampled: Resampled


def comparisons(raw: Errors, normalized: Errors, speakers: Sequence[str]) -> list[dict[str, Any]]:
    """Each pair by WER as it is, and by normalised WER, in which a learned format counts for nothing.

    The last row is the speaker's own adapter against the mean of all others' where there are several.
    """
    systems, others = list(raw.counted), others_of(raw.counted)
    pairs = [(system, against) for against in _REFERENCES for system in systems if system != against]
    groups: list[tuple[str, str, tuple[str, ...]]] = [
        (system, against, (against,)) for system, against in [*pairs, *_PAIRS]
    ]
    if len(others) > 1:
        groups.append((OWN, OTHERS, others))
    return [
        {
            "system": system,
            "against": against,
            **({"mean_of": list(group)} if len(group) > 1 else {}),
            **_compared(raw, system, group, speakers),
            "normalized": _compared(normalized, system, group, speakers),
        }
        for system, against, group in groups
        if {system, *group} <= raw.counted.keys()
    ]


def _compared(errors: Errors, system: str, group: Sequence[str], speakers: Sequence[str]) -> dict[str, Any]:
    found = _entry(errors.resampled.compare(system, group))
    return {**found, "speakers": _speakers(errors.counted, system, group, speakers)}


def gain_split(raw: Errors, normalized: Errors) -> list[dict[str, Any]]:
    """What the speaker's own adapter gains over `nf4`, in shares of the errors of `nf4`; empty without a control.

    `anyone`: what the mean of all others' adapters gains too, domain, text format and the repair of 4 bits; `own`:
    what only one's own does; `whole`: their sum.
    """
    others = others_of(raw.counted)
    if not others or not {BASE, OWN} <= raw.counted.keys():
        return []
    steps = {"anyone": ((BASE,), others), "own": (others, (OWN,)), "whole": ((BASE,), (OWN,))}
    return [
        {
            "part": part,
            **_entry(raw.resampled.gain(before, after, (BASE,)), "of_errors"),
            "normalized": _entry(normalized.resampled.gain(before, after, (BASE,)), "of_errors"),
        }
        for part, (before, after) in steps.items()
    ]


def _entry(found: Comparison, name: str = "relative_wer_reduction") -> dict[str, Any]:
    return {name: found.relative_wer_reduction, "ci95": list(found.ci95), "p_improvement": found.p_improvement}


def _speakers(
    counted: Mapping[str, Sequence[ErrorCounts]], system: str, group: Sequence[str], speakers: Sequence[str]
) -> dict[str, Any]:
    """Speakers helped and harmed; against the mean of several, both sides count as often as there are of these."""
    ours = [one.errors * len(group) for one in counted[system]]
    theirs = [sum(one.errors for one in row) for row in zip(*(counted[other] for other in group), strict=True)]
    return asdict(count_speakers(ours, theirs, speakers))


def adaptation_minutes(recipe: Recipe) -> dict[str, float]:
    """Minutes of each target speaker, train and dev together, within what `adapt_minutes` allows.

    Empty, and a warning, where a recording is gone: to score, none is needed.
    """
    material = Material(recipe)
    try:
        return {
            speaker: round(
                sum(_seconds(one) for split in SHARES for one in allowed_speech(material, split, speaker)) / 60, 2
            )
            for speaker in material.speakers()
        }
    except PqmError as error:
        logging.warning("minutes of adaptation speech are not known: %s", error)
        return {}


def _seconds(utterance: Utterance) -> float:
    if utterance.end_s is None:
        return duration_s(utterance)
    return utterance.end_s - (utterance.start_s or 0.0)


_RUN_KEYS = ("model_bytes", "adapter_bytes", "adapter_fraction", "rtf", "peak_rss_bytes")
_FURTHER_RUN_KEYS = ("trainable",)
_SHARED_KEYS = ("family", "search", "decoding", "text_case")


@dataclass(frozen=True)
class Decode:
    """One finished decode: its folder, its record and its utterances sorted by name."""

    folder: Path
    run: Mapping[str, Any]
    scored: Sequence[ScoredUtterance]


def score_set(
    model_dir: Path,
    decoded: str,
    meta: dict[str, Any],
    seed: int,
    out: Path,
    n_resamples: int = 10_000,
    language: str = ENGLISH,
    scorer: str = "jiwer",
) -> dict[str, Any]:
    """Score every `decode_<system>/<decoded>/` of `model_dir` that has a `run.json`, and write `out`.

    Each decode gets `score_wer/` and `score_cer/` with `ref.trn`, `hyp.trn` and `result.txt`, and its words as icefall
    writes them; with the scorer `sclite` that program counts, too. The same decodes, `meta` and `seed` give the same
    bytes. `language` is the code of the texts' language where the decodes do not record it: it decides how they are
    normalised for `wer_normalized`, and `meta` says so if it is not English.

    Raises:
        PqmError: if nothing is decoded, a decode is damaged, two systems did not decode the same utterances with the
            same references, or the references hold no word.
    """
    decodes = finished_decodes(model_dir, decoded)
    _check_same(decodes)
    _check_made_alike(decodes)
    counted = {system: _write_scores(decode) for system, decode in decodes.items()}
    rates = {system: total(counts, system).rate for system, counts in counted.items()}
    write_text(model_dir / f"wer-summary-{decoded}.txt", wer_summary_txt(rates))
    first = next(iter(decodes.values()))
    language = first.run.get("search", {}).get("language", language)
    normalize = normalizer_of(language)
    normalized = {system: _counts(decode, normalize) for system, decode in decodes.items()}
    speakers = [one.speaker for one in first.scored]
    errors, errors_normalized = (_errors(both, speakers, seed, n_resamples) for both in (counted, normalized))
    results = {
        # As the decodes record it, not as the options of this call would have it.
        "meta": meta | {key: first.run[key] for key in _SHARED_KEYS if key in first.run} | _in_other(language),
        "systems": {
            system: _system(
                decode,
                counted[system],
                normalized[system],
                [each.resampled.interval(system) for each in (errors, errors_normalized)],
            )
            | (_by_sclite(decode) if scorer == "sclite" else {})
            for system, decode in decodes.items()
        },
        "comparisons": comparisons(errors, errors_normalized, speakers),
        "gain_split": gain_split(errors, errors_normalized),
        "quantization": read_json(model_dir / META).get("kinds", []) if (model_dir / META).is_file() else [],
    }
    write_json(out, results)
    return results


def _in_other(language: str) -> dict[str, str]:
    """What results say of a language that is not English, and of how its texts were normalised."""
    return {} if language == ENGLISH else {"language": language, "normalizer": "basic"}


def _errors(
    counted: Mapping[str, Sequence[ErrorCounts]], speakers: Sequence[str], seed: int, n_resamples: int
) -> Errors:
    errors = {system: [one.errors for one in counts] for system, counts in counted.items()}
    words = [one.words for one in next(iter(counted.values()))]
    return Errors(counted, resample(errors, words, speakers, seed, n_resamples))


def finished_decodes(model_dir: Path, folder_name: str) -> dict[str, Decode]:
    """The finished decodes of a set by system, in the order of the tables; one that is not finished is warned of.

    Raises:
        PqmError: if nothing is decoded, or a decode is damaged.
    """
    folders = {path.parent.name.removeprefix("decode_"): path for path in model_dir.glob(f"decode_*/{folder_name}")}
    for system in ordered(folders):
        if not (folders[system] / "run.json").is_file():
            logging.warning("%s is not finished and not scored: run stage 6 (decode) again", folders[system])
            del folders[system]
    if not folders:
        raise PqmError(f"{model_dir}/decode_*/{folder_name}: nothing is decoded; run stage 6 (decode) first")
    return {system: _read_decode(folders[system], system) for system in ordered(folders)}


def _read_decode(folder: Path, system: str) -> Decode:
    run = read_json(folder / "run.json")
    missing = [key for key in ("system", "utterances", *_RUN_KEYS) if key not in run]
    if missing:
        raise PqmError(f"{folder}/run.json lacks {', '.join(missing)}: delete {folder} and run stage 6 (decode) again")
    speakers = _read_speakers(folder / "utt2spk")
    references, hypotheses = (read_trn(folder / name, speakers) for name in ("ref.trn", "hyp.trn"))
    found = {run["utterances"], len(references), len(hypotheses), len(speakers)}
    if run["system"] != system or len(found) > 1 or references.keys() != hypotheses.keys():
        raise PqmError(
            f"{folder}: run.json ({run['system']}, {run['utterances']} utterances), ref.trn ({len(references)}), "
            f"hyp.trn ({len(hypotheses)}) and utt2spk ({len(speakers)}) do not belong together: "
            f"delete {folder} and run stage 6 (decode) again"
        )
    scored = [ScoredUtterance(key, speakers[key], references[key], hypotheses[key]) for key in sorted(references)]
    return Decode(folder, run, scored)


def _read_speakers(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise PqmError(f"{path} is missing: delete {path.parent} and run stage 6 (decode) again")
    speakers: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if len(fields) != 2:
            raise PqmError(f"{path}:{number}: expected an utterance and its speaker, found {line[:60]!r}: decode again")
        speakers[fields[0]] = fields[1]
    return speakers


def _check_same(decodes: Mapping[str, Decode]) -> None:
    (first_system, first), *others = decodes.items()
    expected = {one.utterance: (one.speaker, one.reference) for one in first.scored}
    for system, decode in others:
        found = {one.utterance: (one.speaker, one.reference) for one in decode.scored}
        for key in sorted(expected.keys() | found.keys()):
            if expected.get(key) == found.get(key):
                continue
            if key not in expected or key not in found:
                lacking = system if key not in found else first_system
                problem = f"utterance {key} is not among those of {lacking}"
            else:
                problem = f"utterance {key} has speaker and reference {found[key]} here and {expected[key]} there"
            raise PqmError(
                f"{decode.folder} and {first.folder} are not comparable: {problem}; "
                "delete the older one and run stage 6 (decode) again"
            )


def _check_made_alike(decodes: Mapping[str, Decode]) -> None:
    """Words found with other search options, or by weights that are no longer there, do not belong in one table."""
    first = next(iter(decodes.values()))
    for decode in decodes.values():
        if decode.run.get("search") != first.run.get("search"):
            raise PqmError(f"{decode.folder} and {first.folder} were decoded with other options: run stage 6 again")
        for name, digest in decode.run.get("read_from", {}).items():
            if not Path(name).is_file() or weights_hash(Path(name)) != digest:
                raise PqmError(f"{decode.folder} was decoded with another {name}: run stage 6 (decode) again")


def _write_scores(decode: Decode) -> list[ErrorCounts]:
    """Write `score_wer/` and `score_cer/`; return the word errors of each utterance."""
    as_words = decode.scored
    counts = _counts(decode, str)
    total(counts, str(decode.folder))  # names the set where no word was said
    as_letters = [
        ScoredUtterance(one.utterance, one.speaker, as_characters(one.reference), as_characters(one.hypothesis))
        for one in as_words
    ]
    speakers = {one.utterance: one.speaker for one in as_words}
    for name, scored in (("score_wer", as_words), ("score_cer", as_letters)):
        folder = decode.folder / name
        write_trn(folder / "ref.trn", {one.utterance: one.reference for one in scored}, speakers)
        write_trn(folder / "hyp.trn", {one.utterance: one.hypothesis for one in scored}, speakers)
        title = f"{decode.folder.parent.name}/{decode.folder.name}"
        write_text(folder / "result.txt", result_txt(scored, title))
    name = f"{decode.folder.name}-{decode.folder.parent.name.removeprefix('decode_')}.txt"
    write_text(decode.folder / f"score_wer/recogs-{name}", recogs_txt(as_words))
    write_text(decode.folder / f"score_wer/errs-{name}", errs_txt(as_words))
    return counts


def _by_sclite(decode: Decode) -> dict[str, Any]:
    """What sclite itself counts of the words, and its own report beside ours."""
    folder = decode.folder / "score_wer"
    text, counts = by_sclite(folder / "ref.trn", folder / "hyp.trn")
    write_text(folder / "result_sclite.txt", text)
    return {"sclite": {"words": counts.words, "errors": counts.errors, "wer": counts.rate}}


def _counts(decode: Decode, prepare: Callable[[str], str]) -> list[ErrorCounts]:
    references = [prepare(one.reference) for one in decode.scored]
    return counts_of(references, [prepare(one.hypothesis) for one in decode.scored])


def _system(
    decode: Decode,
    counts: Sequence[ErrorCounts],
    normalized: Sequence[ErrorCounts],
    intervals: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    name = str(decode.folder)
    by_speaker: dict[str, list[tuple[ErrorCounts, ErrorCounts]]] = {}
    for one, both in zip(decode.scored, zip(counts, normalized, strict=True), strict=True):
        by_speaker.setdefault(one.speaker, []).append(both)
    summed = total(normalized, f"{name}, normalised")
    raw, without_format = intervals
    return {
        **_rate(counts),
        "wer_ci95": list(raw),
        "words_normalized": summed.words,
        "errors_normalized": summed.errors,
        "wer_normalized": summed.rate,
        "wer_normalized_ci95": list(without_format),
        "cer": total(_counts(decode, as_characters), name).rate,
        **{key: decode.run[key] for key in (*_RUN_KEYS, *_FURTHER_RUN_KEYS) if key in decode.run},
        "speakers": {speaker: _both_rates(parts) for speaker, parts in sorted(by_speaker.items())},
    }


def _both_rates(parts: Sequence[tuple[ErrorCounts, ErrorCounts]]) -> dict[str, Any]:
    summed = add([normalized for _, normalized in parts])
    return {
        **_rate([raw for raw, _ in parts]),
        "words_normalized": summed.words,
        "errors_normalized": summed.errors,
    }


def _rate(parts: Sequence[ErrorCounts]) -> dict[str, Any]:
    summed = add(parts)
    wer = summed.rate if summed.words else None
    return {"utterances": len(parts), "words": summed.words, "errors": summed.errors, "wer": wer}


def run(recipe: Recipe) -> None:
    """Score the target set, and the control set if there is one, each into its own results file."""
    trust_adapters(recipe)
    shared = provenance(recipe)
    for set_name, out in results_files(recipe).items():
        split = recipe.split if set_name == recipe.target_set else "test"
        meta = {**shared, "set": set_name, **({"split": split} if split != "test" else {})}
        overlap = recipe.datadir / OVERLAP
        if set_name == recipe.target_set and overlap.is_file():
            meta["overlap"] = read_json(overlap)
        if set_name == recipe.target_set and (minutes := adaptation_minutes(recipe)):
            meta["adapt_minutes"] = minutes
        language = recipe.config.decode.language
        decoded, seed = recipe.decoded(set_name, split), recipe.config.seed
        found = score_set(recipe.packed_dir, decoded, meta, seed, out, language=language, scorer=recipe.scorer)
        if said := own_gain(found):
            logging.info("%s: %s", set_name, said)


def own_gain(results: Mapping[str, Any]) -> str:
    """What the speakers' own adapters gain over what nobody had to record for, in one line; empty if not compared."""
    for against in ("nf4+sat", BASE):
        for one in results["comparisons"]:
            found = one["normalized"]
            if (one["system"], one["against"]) != (OWN, against) or found["relative_wer_reduction"] is None:
                continue
            low, high = ("?" if end is None else f"{100 * end:+.1f}" for end in found["ci95"])
            shown = found["ci95"][0] is not None and found["ci95"][0] > 0
            percent = 100 * found["relative_wer_reduction"]
            verdict = "personalising pays" if shown else f"no gain shown, {against} does as well"
            interval = f"95 % interval {low} to {high} %"
            return f"{OWN} against {against}: {percent:+.1f} % fewer word errors, normalised, {interval}: {verdict}"
    return ""


def results_files(recipe: Recipe) -> dict[str, Path]:
    """Where the results of each decoded set are: the target set's in results.json, the control set's beside it."""
    tag = f"_{recipe.tag}" if recipe.tag else ""
    split = f"_{recipe.split}" if recipe.split != "test" else ""
    files = {recipe.target_set: recipe.packed_dir / f"results{split}{tag}.json"}
    if recipe.check_set and not split:
        files[recipe.check_set] = recipe.packed_dir / f"results_{recipe.check_set}{tag}.json"
    return files
