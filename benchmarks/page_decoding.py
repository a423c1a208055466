"""The page of benchmarks: decoding and modes."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.shown import Results, mappings, spread_of
from pqm_plugin.report.tables import NOTHING, table

_WEIGHTS = {"full": "float", "exact": "4 bits", "small": "`small`"}


def decoding(results: Results) -> str:
    """Every way of decoding at every beam, and its distance to what the machine can do."""
    found = results["decode"]
    about = (
        f"## Decoding\n\n{found['utterances']} utterances of as many readers, {found['audio_s']:g} s, on "
        f"{results['meta']['parts']['decode']['threads']} threads; words equal stock's. RTF is seconds of decoding for "
        "a second of speech. `full` is the float model, 4 bits are unpacked once (mode `exact`) or, in `small`, at "
        "every use. From `decode.py`.\n\n"
    )
    beams = {name: one for name, one in found.items() if name.startswith("beam")}
    rows = [
        [
            beam[4:],
            f"`{name}`",
            spread_of(one["s"]),
            spread_of(one["rtf"]),
            spread_of(one["speedup"], 2) if "speedup" in one else "1",
        ]
        for beam, systems in beams.items()
        for name, one in mappings(systems).items()
        if "rtf" in one
    ]
    heads = ("beam", "system", "s", "RTF", "times faster than stock")
    there = "cuda_device" in results["meta"]
    return about + _speedups(beams) + "\n" + _scores(beams) + table(heads, rows, text_columns=2) + _limits(beams, there)


def _limits(beams: Mapping[str, Mapping[str, Any]], on_gpu: bool) -> str:
    """How far each is from the ceilings, and on a CPU what the rest of the time is, as torch's profiler has it."""
    explained = (
        ""
        if on_gpu
        else "\nOf the encoder's time less than half is matrix products; convolutions, attention and what is done "
        "element by element are the rest. A step of the search for many rows is mostly products and attention over "
        "what is cached of frames and tokens: the last column, which counts the reading of weights alone, is no bound "
        "there.\n"
    )
    columns = {
        "features_share_of_time": "features, share of the time",
        "encoder_share_of_time": "encoder, share of the time",
        "encoder_gflop_per_audio_s": "its GFLOP for a second of speech",
        "encoder_share_of_product": "its rate over that of products",
        "decoder_mbyte_per_step": "decoder, MB read a step",
        "decoder_ms_per_step": "ms a step, CTC and beam included",
        "decoder_share_of_bandwidth": "its rate over that of reading",
    }
    rows = [
        [beam[4:], size.removeprefix("batch"), *(f"{one[name]:g}" for name in columns)]
        for beam, found in beams.items()
        for size, one in found["limits"].items()
    ]
    return (
        "\nFloat weights, by utterances in a batch, beside what the machine can do in the same minute. Features are "
        "computed before the encoder, within the time.\n\n"
        + table(("beam", "batch", *columns.values()), rows)
        + explained
    )


def _scores(beams: Mapping[str, Mapping[str, Any]]) -> str:
    """How far scores are apart, a line a beam."""
    lines = [
        f"* beam {beam[4:]}: float weights {found['scores']['ours_to_stock']:.1e} from stock's, "
        f"{found['scores']['ours_to_float64']:.1e} from stock's in float64; stock in float32 "
        f"{found['scores']['stock_to_float64']:.1e} from its own in float64\n"
        for beam, found in beams.items()
    ]
    return "Scores of the best hypotheses are apart at most by:\n\n" + "".join(lines) + "\n"


def _speedups(beams: Mapping[str, Mapping[str, Any]]) -> str:
    """Times faster than stock by beam and batch size, in a line a beam."""
    ways = [name for name, one in mappings(next(iter(beams.values()))).items() if "speedup" in one and "_batch" in name]
    heads = []
    for way in ways:
        kind, size = way.split("_batch")
        heads.append(f"{_WEIGHTS[kind]}, " + ("one at a time" if size == "1" else f"batches of {size}"))
    rows = [[beam[4:], *(f"{found[way]['speedup']['median']:.2f}" for way in ways)] for beam, found in beams.items()]
    return (
        "Times faster than stock, which decodes one utterance at a time:\n\n"
        + table(("beam", *heads), rows)
        + _by_process(beams)
    )


def _by_process(beams: Mapping[str, Mapping[str, Any]]) -> str:
    """The same where each core has a process of its own; empty where that was not measured."""
    said = [
        f"{spread_of(found['processes']['speedup'], 2)} at beam {beam[4:]}, where stock is "
        f"{found['stock_processes']['speedup']['median']:.2f} times as fast as with threads"
        for beam, found in beams.items()
        if "processes" in found
    ]
    if not said:
        return ""
    return (
        "\nIn processes of one thread each, stock and float weights alike (`..._processes`), as recipes run them with "
        f"`--nj`, the float weights in batches are times faster than stock: {'; '.join(said)}.\n"
    )


def same_words(found: Results | None) -> str:
    """All test utterances by stock and here; nothing where this was not run."""
    if found is None:
        return ""
    meta = found["meta"]
    lines, rows, nearer = [], [], ""
    for name, one in found["beams"].items():
        beam = name.removeprefix("beam")
        lines.append(
            f"* beam {beam}: {one['same_words']} of {one['utterances']} utterances have stock's words; where they do, "
            f"scores are apart by {one['largest_difference']:.1e} at most\n"
        )
        nearer += _nearer(beam, one["cases"])
        rows += [
            [
                beam,
                case["utterance"],
                "same" if case["same_words"] else "others",
                *(f"{case[score]:.5f}" for score in ("ours", "stock", "stock_float64")),
            ]
            for case in one["cases"]
        ]
    cases = (
        f"\nOther words, or scores apart by more than {found['tolerance']:g}, with the score that stock gives in "
        f"float64.{nearer}\n\n"
        + table(("beam", "utterance", "words", "score here", "stock's", "stock's in float64"), rows, text_columns=3)
        if rows
        else f"\nNo words differ, and no score by more than {found['tolerance']:g}.\n"
    )
    quick = " **Sizes of `--quick`: this shows that the script works, and nothing else.**" if meta["quick"] else ""
    return (
        f"### The same words\n\nAll test utterances of {found['readers']} readers, float weights here in batches "
        f"beside stock ESPnet, by `{meta['command']}` at commit `{meta['commit']}`, {meta['date']}, on "
        f"{meta['hardware']}.{quick}\n\n" + "".join(lines) + cases
    )


def _nearer(beam: str, cases: Sequence[Results]) -> str:
    """What lies behind scores that differ where words do not."""
    alike = [case for case in cases if case["same_words"]]
    if not alike:
        return ""
    ours, theirs = ([abs(case[name] - case["stock_float64"]) for case in alike] for name in ("ours", "stock"))
    won = sum(one < other for one, other in zip(ours, theirs, strict=True))
    apart = max(abs(case["ours"] - case["stock"]) / abs(case["stock"]) for case in alike)
    return (
        f" Beam {beam}: where words are the same, ours is the nearer to float64 in {won} of {len(alike)}, stock's own "
        f"float32 is up to {max(theirs):.1e} away from it, ours {max(ours):.1e}: both are sums of float32, in another "
        f"order, {apart:.1e} of the score apart at most."
    )


def modes(results: Results, recipe: Results | None, of_all: Results | None) -> str:
    """What each mode costs, and its words; `of_all` and `recipe` have those of all test utterances."""
    found = results["modes"]
    rows = [
        [
            f"`{name}`",
            f"{one['file_bytes'] / 1e6:.2f}",
            f"{one['peak_while_opening_bytes'] / 1e6:.0f}",
            f"{one['peak_while_decoding_bytes'] / 1e6:.0f}",
            spread_of(one["weights_memory_ratio_spread"], 2) if name != "stock" else NOTHING,
            spread_of(one["open_s"], 2),
            spread_of(one["decode_s"], 2),
            f"{one['decode_s']['median'] / found['audio_s']:.3f}",
            spread_of(one["speed_of_stock"], 2),
            f"{100 * one['wer']:.2f}",
        ]
        for name, one in _modes(found).items()
    ]
    heads = (
        "mode",
        "MB on disk",
        "peak MB while opening",
        "peak MB while decoding",
        "weights in memory over float32's",
        "s to open",
        "s to decode",
        "RTF",
        "times faster than stock",
        "WER %",
    )
    words = next(one["words"] for one in _modes(found).values())
    return (
        f"## Modes\n\nOne process a mode, one thread, beam {found['beam']}, {found['utterances']} utterances one after "
        f"the other; WER of {found['wer_utterances']} utterances, {words:,} words, among those that the recipe tests "
        "on, decoded by every mode, 4 bits rounded to the nearest level without calibration. Modes are opened as stage "
        "6 opens them; `small` alone gives large blocks back to the system as it frees them. From `modes.py`.\n\n"
        + table(heads, rows)
        + "\n"
        + _of_all(of_all)
        + _of_recipe(recipe)
    )


def _modes(found: Results) -> dict[str, Any]:
    return {name: one for name, one in mappings(found).items() if "wer" in one}


def _of_all(found: Results | None) -> str:
    """Word error rates of the modes on all test utterances."""
    if found is None:
        return ""
    meta, counts = found["meta"], found["modes"]["full"]
    rates = ", ".join(f"`{name}` {100 * one['wer']:.2f} % ({one['errors']})" for name, one in found["modes"].items())
    return (
        f"All {found['utterances']} test utterances of {counts['words']:,} words in the same modes, by the recipe's "
        f"own search, with the errors: {rates}; by `{meta['command']}` at commit `{meta['commit']}`, on "
        f"{meta['hardware']}.\n\n"
    )


def _of_recipe(recipe: Results | None) -> str:
    """The word error rates of the real run, named as such."""
    if recipe is None:
        return ""
    names = {"espnet": "stock", "full": "the float model here", "nf4": "4 bits, calibrated, `exact`"}
    systems = {key: recipe["systems"][key] for key in names if key in recipe["systems"]}
    rates = ", ".join(f"`{key}` ({names[key]}) {100 * one['wer']:.2f} %" for key, one in systems.items())
    counts = next(iter(systems.values()))
    return (
        f"The recipe's own run, all its {counts['utterances']} test utterances of {counts['words']:,} words, by its "
        f"own settings, at commit `{recipe['meta']['commit']}`: WER of {rates}; see "
        "[RESULTS.md of librispeech](../egs/librispeech/RESULTS.md).\n"
    )
