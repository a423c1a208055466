"""The page of benchmarks: adaptation, what a fuller batch could bring, and growth."""

from collections.abc import Sequence

from benchmarks.shown import Results, mappings, spread_of
from pqm_plugin.report.tables import NOTHING, table


def adaptation(results: Results) -> str:
    """Every way of adapting, by the number of readers."""
    found = results["adapt"]
    return (
        f"## Adaptation\n\n{found['epochs']} epochs over {found['utterances_a_speaker']:g} utterances a speaker, of "
        f"{found['minutes_a_speaker']:g} minutes with dev, from a speaker-independent adapter that learned from "
        f"{found['sat_readers']} readers without joined speech, to a base rounded by {found['calibrated_by']} "
        "utterances; the rest is as in the recipe's `adapt`, but for the learning rate of uppermost layers, chosen on "
        "other readers, where the one already in use was the best (adapt.py has the numbers). Both rates fall by the "
        f"recipe's schedule, `{found['schedule']}`. `plain` is a PEFT loop of {found['threads_of_plain']} threads over "
        "all layers and the same batches. Stage 5's times are of whole commands, imports and opening included, of one "
        "run each; the plain loop's are put together from two such, half of the speakers each. Dev accuracy is the "
        "share of teacher-forced tokens that are right, of the dev utterances within the minutes; dev WER is of all "
        "dev utterances. A way may keep the plain loop's accuracy and make more word errors, or the other way round; "
        "the goal by words was added when that had been seen. From `adapt.py`.\n\n" + _ways(found)
    )


def other_runs(runs: Sequence[Results]) -> str:
    """The same with other epochs or on other machines, which are no part of what `make bench` found."""
    if not runs:
        return ""
    parts = []
    for found in runs:
        meta, adapt = found["meta"], found["adapt"]
        about = f"By `{meta['command']}` at commit `{meta['commit']}`, {meta['date']}"
        parts.append(f"{in_words(found)} {about}.\n\n{_ways(adapt)}")
    return (
        "### Other epochs, other machines\n\nWhere uppermost layers alone learn, what lower layers give is computed in "
        "the first epoch alone, and imports are a smaller part the more epochs there are. A command is to be "
        "read at its commit.\n\n" + "\n".join(parts)
    )


def in_words(found: Results) -> str:
    """What a run of adapt.py found of ten speakers, in a sentence."""
    ten = found["adapt"]["speakers10"]
    tried = " and ".join(layers(name) for name in mappings(ten) if name != "plain")
    said = []
    for key, way, kept, lost, rate in (
        ("speedup", "way", "with the plain loop's dev accuracy", "lose dev accuracy", _accuracy),
        ("speedup_by_words", "way_by_words", "with no more dev word errors", "make more dev word errors", _wer),
    ):
        best = ten[way] or next(name for name in mappings(ten) if name != "plain")
        beside = f"{rate(ten[best])}; plain {rate(ten['plain'])}"
        said.append(
            f"{ten[key]:g} times faster {kept} ({layers(best)} {beside})" if ten[way] else f"{tried} {lost} ({beside})"
        )
    return f"{found['adapt']['epochs']} epochs on {found['meta']['hardware']}: {'; '.join(said)}."


def layers(way: str) -> str:
    """Which layers learn, from the name of a way."""
    return f"{way.split('_')[1]} uppermost layers" if way.startswith("top_") else "all layers"


def _accuracy(way: Results) -> str:
    return f"{way['dev_accuracy']:.4f}"


def _wer(way: Results) -> str:
    if "wer" not in way:
        return NOTHING
    counts = f", {way['errors']} of {way['words']:,}" if "errors" in way else ""
    return f"{100 * way['wer']:.2f} %{counts}"


def _ways(found: Results) -> str:
    rates = found["learning_rates"]
    rows = [
        [
            name.removeprefix("speakers"),
            "all layers, plain" if way == "plain" else layers(way),
            f"{rates['top' if way.startswith('top') else 'all']:g}",
            f"{one['s']:.1f}",
            _accuracy(one),
            _wer(one),
            f"{one.get('speedup', 1):.2f}",
        ]
        for name, ways in mappings(found).items()
        if name.startswith("speakers")
        for way, one in mappings(ways).items()
    ]
    heads = (
        "speakers",
        "layers that learn",
        "learning rate",
        "s",
        "dev accuracy",
        "dev WER",
        "times faster than plain",
    )
    return table(heads, rows, text_columns=2)


def step(results: Results) -> str:
    """What a batch of several speakers could bring."""
    found = results["step"]
    rows = [
        [seconds, n, spread_of(one["ms"], 1), spread_of(one["over_most"], 2)]
        for seconds, sizes in found["by_seconds"].items()
        for n, one in sizes.items()
    ]
    heads = ("seconds of an utterance", "utterances in the batch", "ms an utterance", "over those of the largest batch")
    batches = found["batches"]
    return (
        "## A step of adaptation\n\n"
        f"A speaker's batches hold up to {found['batch_frames']:,} frames, a hundred to a second. A step, forward and "
        "backward, on one thread, for one utterance of so many that share it: several speakers in one batch, each with "
        "its own adapter, could bring no more than the last column, and only where one speaker's utterances do not "
        f"fill it. Of the {batches['n']} batches of {batches['readers']} readers' train utterances "
        f"{100 * batches['under_filled_share']:.0f} % are filled by less than {100 * batches['full']:.0f} %, with "
        f"{100 * batches['frames_in_under_filled_share']:.0f} % of the frames. By default stage 5 mixes none; it "
        "runs them side by side. From `step.py`.\n\n" + table(heads, rows) + _mixed(found.get("mixed"))
    )


def _mixed(found: Results | None) -> str:
    """What batches of several speakers do bring; empty where that was not measured."""
    if found is None:
        return ""
    rows = [
        [name, spread_of(found[way]["ms"], 1)] for way, name in (("alone", "one after another"), ("mixed", "in one"))
    ]
    epoch = found["epoch"]
    return (
        f"\nOne batch of each of {found['readers']} readers, of {', '.join(map(str, found['frames']))} frames, "
        f"{found['padded']} together, forward, backward and Adam: `--speakers_per_batch {found['readers']}` computes "
        f"them {spread_of(found['speedup'], 2)} times as fast. An epoch of these readers has "
        f"{epoch['steps_mixed']} steps instead of {epoch['steps_alone']}, with {epoch['padded_over_own']:.2f} times as "
        "many frames, for batches of unlike length are padded to one.\n\n" + table(("batches", "ms"), rows)
    )


def growth(results: Results, figure: str) -> str:
    """Cost against speakers, length and beam."""
    found, there = results["growth"], "cuda_device" in results["meta"]
    batch = [[n, spread_of(one["s"]), spread_of(one["over_none"], 2)] for n, one in found["batch"].items()]
    length, beam = found["length"], found["beam"]
    lengths = [
        [name, spread_of(one["s"]), f"{one['encoder_s']:.3f}", str(one["steps"])]
        for name, one in length["by_seconds"].items()
    ]
    beams = [[name, spread_of(one["s"])] for name, one in beam["by_beam"].items()]
    return "\n".join(
        [
            "## Growth\n\nSwitching is all that is between one speaker's last frame and the next one's first; `held`: "
            "no file is read; else those longest unused make room, and a switch to one of them reads it. `load`: to "
            f"read an adapter for the first time. {_where_factors_are(results)}From `growth.py`.\n",
            _adapters(found["adapters"]),
            f"![Memory and switching against the number of adapters, a batch by those in it, time against length and "
            f"beam]({figure})\n",
            "One batch of eight equally long utterances, by the number of distinct adapters among its rows:\n",
            table(("distinct adapters", "s", "over none"), batch),
            "One utterance by its length. "
            + (
                "The encoder takes the same for all; what grows are steps of the search, as many as tokens. The "
                if there
                else "What bends the line upwards is quadratic: the encoder attends over pairs of frames, and each "
                "step of the search, of which there are as many as tokens, reads all frames. The "
            )
            + f"worst point is {100 * length['bend']:.0f} % from the straight line.\n",
            table(("seconds", "s", "encoder s", "steps"), lengths),
            "By beam. "
            + (
                "More hypotheses take no longer than one: their rows are computed side by side. "
                if there
                else "Encoder and reading of weights cost the same for one hypothesis as for many, so that the line "
                "starts above zero; what it rises by is each hypothesis's own. "
            )
            + f"The worst point is {100 * beam['bend']:.0f} % from the straight line.\n",
            table(("beam", "s"), beams),
        ]
    )


def _where_factors_are(results: Results) -> str:
    there = "cuda_device" in results["meta"]
    return "Factors are in the device's memory, the process's own grows by what describes them. " if there else ""


def _adapters(found: Results) -> str:
    rows = [
        [
            n,
            way if way == "held" else f"within {found['memory_mib']} MiB",
            str(one["in_memory"]),
            f"{one['held_bytes'] / 1e6:.1f}",
            f"{one['process_grew_by_bytes'] / 1e6:.1f}",
            f"{one['switch_ms']['median']:.3f}",
            f"{one['switch_ms']['p95']:.3f}",
            spread_of(one["load_ms"], 2) if "load_ms" in one else NOTHING,
        ]
        for way in ("held", "paged")
        for n, one in found[way].items()
    ]
    heads = (
        "adapters",
        "kept",
        "in memory",
        "MB of factors",
        "MB the process grew",
        "switch ms",
        "95th percentile",
        "load ms",
    )
    return table(heads, rows, text_columns=2)
