"""benchmarks/RESULTS.md, from benchmarks/results.json alone."""

from collections.abc import Mapping
from typing import Any

from benchmarks.results import value
from pqm_plugin.report.markdown import NOTHING, table

GOALS = (
    ("decode.beam10.speedup", "beam 10, batch, float weights: times faster than stock ESPnet", ">=", 3.0),
    ("decode.beam1.speedup", "beam 1, batch, float weights: times faster than stock ESPnet", ">=", 2.0),
    ("modes.small.weights_memory_ratio", "`small`: memory of weights over that of float32", "<=", 0.35),
    ("modes.small.speed_of_stock.median", "`small`: times faster than stock ESPnet", ">=", 1.0),
    ("adapt.speakers10.speedup", "ten speakers: times faster than a plain PEFT loop", ">=", 3.0),
    ("switch.ms", "switch of speaker, median, ms", "<=", 5.0),
    ("switch.ms_p95", "switch of speaker, 95th percentile, ms", "<=", 5.0),
)
FIGURE = "figures/growth.svg"
Results = Mapping[str, Any]


def page(results: Results) -> str:
    """The whole page."""
    parts = (_head, _goals, _ceilings, _decoding, _modes, _adaptation, _step, _growth)
    return "\n".join(part(results) for part in parts)


def _head(results: Results) -> str:
    meta = results["meta"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(meta["versions"].items()))
    loads = {name: part["load_average"][0] for name, part in meta["parts"].items()}
    lines = [
        f"commit: `{meta['commit']}`",
        f"command: `{meta['command']}`",
        *(f"command of {name}: `{part['command']}`" for name, part in meta["parts"].items()),
        f"seed: {meta['seed']}",
        f"hardware: {meta['hardware']}, {meta['memory_bytes'] / 1e9:.1f} GB of memory",
        *([f"CUDA device: {meta['cuda_device']}"] if "cuda_device" in meta else []),
        f"date: {meta['date']}",
        f"versions: {versions}",
        "others on the machine: load average before " + ", ".join(f"{name} {load:.1f}" for name, load in loads.items()),
        f"took {meta['took_s'] / 60:.1f} minutes",
    ]
    quick = "\n**Sizes of `--quick`: these numbers show that the scripts work, and nothing else.**\n"
    return (
        "# Benchmarks\n\nThis page is written by `make bench` from [results.json](results.json); do not edit it.\n"
        "Numbers are medians over turns, with the lowest and the highest; ratios are taken turn by turn.\n"
        + (quick if meta["quick"] else "")
        + "\n"
        + "".join(f"* {line}\n" for line in lines)
    )


def _goals(results: Results) -> str:
    rows = []
    for key, what, sign, goal in GOALS:
        try:
            found = value(results, key)
        except KeyError:
            rows.append([what, f"`{key}`", NOTHING, f"{sign} {goal:g}", NOTHING])
            continue
        met = found >= goal if sign == ">=" else found <= goal
        rows.append([what, f"`{key}`", f"{found:g}", f"{sign} {goal:g}", "yes" if met else "no"])
    return "## Goals\n\n" + table(("what", "key", "measured", "goal", "met"), rows, text_columns=2)


def _ceilings(results: Results) -> str:
    names = {"threads1": "1 thread", "threads2": "2 threads", "cuda": "CUDA device"}
    rows = [
        [names[threads], f"{rates['read_gbyte_per_s']:g}", f"{rates['float32_gflop_per_s']:g}"]
        for threads, rates in sorted(results["ceilings"].items())
    ]
    return (
        "## What the machine can do\n\n"
        "Reading: a matrix of 256 MiB times a vector. Products: square float32 matrices.\n\n"
        + table(("with", "reading GB/s", "products GFLOP/s"), rows)
    )


def _spread(found: Mapping[str, float], digits: int = 3) -> str:
    return f"{found['median']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def _decoding(results: Results) -> str:
    decode = results["decode"]
    about = (
        f"## Decoding\n\n{decode['utterances']} utterances of as many readers, {decode['audio_s']:g} s, on "
        f"{results['meta']['parts']['decode']['threads']} threads; words equal stock's. RTF is seconds of decoding for "
        "a second of speech. From `decode.py`.\n\n"
    )
    beams = {name: found for name, found in decode.items() if name.startswith("beam")}
    rows = [
        [beam[4:], f"`{name}`", _spread(one["rtf"]), _spread(one["speedup"], 2) if "speedup" in one else "1"]
        for beam, systems in beams.items()
        for name, one in systems.items()
        if isinstance(one, Mapping) and "rtf" in one
    ]
    heads = ("beam", "system", "RTF", "times faster than stock")
    columns = {
        "encoder_gflop_per_audio_s": "encoder, GFLOP for a second of speech",
        "encoder_share_of_product": "its rate over that of products",
        "encoder_share_of_time": "its share of the time",
        "decoder_mbyte_per_step": "decoder, MB read a step",
        "decoder_ms_per_step": "ms a step, CTC and beam included",
        "decoder_share_of_bandwidth": "its rate over that of reading",
    }
    limits = [[beam[4:], *(f"{found['limits'][name]:g}" for name in columns)] for beam, found in beams.items()]
    distance = "\nFloat weights, one utterance after the other, beside what the machine can do in the same minute:\n\n"
    return (
        about
        + _speedups(beams)
        + "\n"
        + _scores(beams)
        + table(heads, rows, text_columns=2)
        + distance
        + table(("beam", *columns.values()), limits)
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
    ways = [name for name, one in next(iter(beams.values())).items() if isinstance(one, Mapping) and "speedup" in one]
    weights = {"full": "float", "nf4": "4 bits"}
    heads = []
    for way in ways:
        kind, size = way.split("_batch")
        heads.append(f"{weights[kind]}, " + ("one at a time" if size == "1" else f"batches of {size}"))
    rows = [[beam[4:], *(f"{found[way]['speedup']['median']:.2f}" for way in ways)] for beam, found in beams.items()]
    return "Times faster than stock, which decodes one utterance at a time:\n\n" + table(("beam", *heads), rows)


def _modes(results: Results) -> str:
    modes = results["modes"]
    rows = [
        [
            f"`{name}`",
            f"{one['file_bytes'] / 1e6:.2f}",
            f"{one['peak_while_opening_bytes'] / 1e6:.0f}",
            f"{one['peak_while_decoding_bytes'] / 1e6:.0f}",
            _spread(one["weights_memory_ratio_spread"], 2) if name != "stock" else NOTHING,
            _spread(one["open_s"], 2),
            f"{one['decode_s']['median'] / modes['audio_s']:.3f}",
            _spread(one["speed_of_stock"], 2),
            f"{100 * one['wer']:.2f}",
        ]
        for name, one in modes.items()
        if isinstance(one, Mapping)
    ]
    heads = (
        "mode",
        "MB on disk",
        "peak MB while opening",
        "peak MB while decoding",
        "weights in memory over float32's",
        "s to open",
        "RTF",
        "times faster than stock",
        "WER %",
    )
    words = next(one["words"] for one in modes.values() if isinstance(one, Mapping))
    return (
        f"## Modes\n\nOne process a mode, one thread, beam {modes['beam']}, {modes['utterances']} utterances one after "
        f"the other; WER of {modes['wer_utterances']} utterances, {words:,} words, among those that the recipe tests "
        "on, rounded to the nearest level without calibration; the recipe's own table, calibrated and of all its test "
        "utterances, is [RESULTS.md of librispeech](../egs/librispeech/RESULTS.md). From `modes.py`.\n\n"
        + table(heads, rows)
    )


def _adaptation(results: Results) -> str:
    adapt = results["adapt"]
    rows = [
        [
            name.removeprefix("speakers"),
            way.replace("_", " "),
            f"{one['s']:.1f}",
            f"{one['dev_accuracy']:.4f}",
            f"{100 * one['wer']:.2f}" if "wer" in one else NOTHING,
            f"{one.get('speedup', 1):.2f}",
        ]
        for name, ways in adapt.items()
        if isinstance(ways, Mapping)
        for way, one in ways.items()
        if isinstance(one, Mapping)
    ]
    heads = ("speakers", "layers that learn", "s", "dev accuracy", "dev WER %", "times faster than plain")
    return (
        f"## Adaptation\n\n{adapt['epochs']} epochs over {adapt['utterances_a_speaker']:g} utterances a speaker; "
        f"from a speaker-independent adapter; `plain` is a PEFT loop of {adapt['threads_of_plain']} threads over the "
        f"same batches. Uppermost layers learn at a rate of {adapt['learning_rates']['top']:g}, all at "
        f"{adapt['learning_rates']['all']:g}. Times are of whole commands, imports and opening included. "
        "From `adapt.py`.\n\n" + table(heads, rows, text_columns=2)
    )


def _step(results: Results) -> str:
    found = results["step"]
    rows = [
        [seconds, n, _spread(one["ms"], 1), _spread(one["over_most"], 2)]
        for seconds, sizes in found["by_seconds"].items()
        for n, one in sizes.items()
    ]
    heads = ("seconds of an utterance", "utterances in the batch", "ms an utterance", "over those of the largest batch")
    return (
        f"A speaker's batches hold up to {found['batch_frames']:,} frames, a hundred to a second. A step, forward and "
        "backward, on one thread, for one utterance of so many that share it: several speakers in one batch, each with "
        "its own adapter, could bring no more than the last column, and only where one speaker's utterances do not "
        "fill it. Stage 5 does not mix speakers; it runs them side by side.\n\n" + table(heads, rows)
    )


def _growth(results: Results) -> str:
    growth = results["growth"]
    adapters = growth["adapters"]
    rows = [
        [
            n,
            way if way == "held" else f"within {adapters['memory_mib']} MiB",
            str(one["in_memory"]),
            f"{one['held_bytes'] / 1e6:.1f}",
            f"{one['process_grew_by_bytes'] / 1e6:.1f}",
            f"{one['switch_ms']['median']:.3f}",
            f"{one['switch_ms']['p95']:.3f}",
        ]
        for way in ("held", "paged")
        for n, one in adapters[way].items()
    ]
    heads = ("adapters", "kept", "in memory", "MB of factors", "MB the process grew", "switch ms", "95th percentile")
    batch = [[n, _spread(one["s"]), _spread(one["over_none"], 2)] for n, one in growth["batch"].items()]
    length, beam = growth["length"], growth["beam"]
    lengths = [
        [name, _spread(one["s"]), f"{one['encoder_s']:.3f}", str(one["steps"])]
        for name, one in length["by_seconds"].items()
    ]
    beams = [[name, _spread(one["s"])] for name, one in beam["by_beam"].items()]
    return "\n".join(
        [
            "## Growth\n\nSwitching is all that is between one speaker's last frame and the next one's first; `held`: "
            "no file is read; else those longest unused make room, and a switch to one of them reads it. "
            "From `growth.py`.\n",
            table(heads, rows, text_columns=2),
            f"![Memory and switching against the number of adapters, time against length and beam]({FIGURE})\n",
            "One batch of eight equally long utterances, by the number of distinct adapters among its rows:\n",
            table(("distinct adapters", "s", "over none"), batch),
            "One utterance by its length. What bends the line upwards is quadratic: the encoder attends over pairs of "
            "frames, and each step of the search, of which there are as many as tokens, reads all frames. The "
            f"worst point is {100 * length['bend']:.0f} % from the straight line.\n",
            table(("seconds", "s", "encoder s", "steps"), lengths),
            "By beam. Encoder and reading of weights cost the same for one hypothesis as for many, so that the line "
            "starts above zero; what it rises by is each hypothesis's own. "
            f"The worst point is {100 * beam['bend']:.0f} % from the straight line.\n",
            table(("beam", "s"), beams),
        ]
    )
