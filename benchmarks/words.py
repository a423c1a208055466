"""Words of one's own: what lists of rare words do to errors on listed words, on all others, and to time.

`python benchmarks/words.py --model PACKED --speech CORPUS --out FILE` decodes the utterances of each speaker of a
corpus with the list of that speaker: the rare words of the speaker's texts in this split, and so many distractors,
which are rare words of other texts. A word is rare if it is not among the 5,000 most frequent ones of English by
wordfreq's list. Errors are counted as Le et al. 2021 do: on the rare words of the texts (one of them that is inserted
counts there), and on all others. Each is done without an adapter and with that of the speaker, where the model has one.
What is in FILE already is not decoded again. `--prompt` gives the list to Whisper as the text before, which its
decoder has room for half of its positions for, instead: as much of it as fits, through ONNX Runtime.

Source: Le et al. 2021, "Contextualized streaming end-to-end speech recognition with trie-based deep biasing and shallow
fusion", for the lists and the two error rates.
"""

import argparse
import json
import random
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pqm_plugin.corpus.audio import load_audio
from pqm_plugin.corpus.partition import paper_split
from pqm_plugin.corpus.readers import librispeech, own
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, write_json
from pqm_plugin.metrics.normalize import normalize
from pqm_plugin.metrics.wer import align
from pqm_plugin.personal.options import search_options
from pqm_plugin.settings import over
from pqm_plugin.stages.common.provenance import circumstances
from pqm_plugin.words import WordList, parse_words

_FREQUENT = 5000
_BATCH = 8
_LANGUAGE = "en"
_BEGIN, _END = "<!-- words: begin -->", "<!-- words: end -->"
_WITHOUT, _WITH = "without", "speaker"


def utterances_of(corpus: Path) -> list[Utterance]:
    """Of a corpus in LibriSpeech's layout, or of a table for `egs/own`."""
    if corpus.is_file():
        return list(own.read(corpus, "own"))
    found: list[Utterance] = list(librispeech.read(corpus.parent, corpus.name))
    return found


def words_in(text: str) -> list[str]:
    """Its words in lower case, with apostrophes inside."""
    return [word for part in re.findall(r"[^\W\d_][\w']*", text.lower().replace("’", "'")) if (word := part.strip("'"))]


def rare_words(texts: Iterable[str]) -> list[str]:
    """Words of more than two letters that are not among the most frequent ones, sorted."""
    from wordfreq import top_n_list

    frequent = set(top_n_list("en", _FREQUENT))
    found = {word for text in texts for word in words_in(text)}
    return sorted(word for word in found - frequent if len(word) > 2 and word.removesuffix("'s") not in frequent)


def lists_of(
    chosen: Mapping[str, Sequence[Utterance]], everything: Sequence[str], n_distractors: int, seed: int = 0
) -> dict[str, tuple[WordList, frozenset[str]]]:
    """Of each speaker the list with distractors, and its words as they are after normalisation."""
    pool, found = rare_words(everything), {}
    for speaker, utterances in chosen.items():
        own_words = rare_words(utterance.text for utterance in utterances)
        others = [word for word in pool if word not in set(own_words)]
        words = sorted(own_words + random.Random(f"{seed} {speaker}").sample(others, min(n_distractors, len(others))))
        found[speaker] = parse_words(words, speaker), frozenset(normalize(word) for word in own_words)
    return found


def score(references: Sequence[str], hypotheses: Sequence[str], listed: frozenset[str]) -> dict[str, int]:
    """Words and errors, on listed words and on the others."""
    found = dict.fromkeys(("listed_words", "listed_errors", "other_words", "other_errors"), 0)
    for steps in align([normalize(text) for text in references], [normalize(text) for text in hypotheses]):
        for step in steps:
            kind = "listed" if (step.reference or step.hypothesis) in listed else "other"
            found[f"{kind}_words"] += step.kind != "I"
            found[f"{kind}_errors"] += step.kind != "C"
    return found


class Bench:
    """A packed model and the utterances of one split of a corpus, by speaker."""

    def __init__(self, wanted: argparse.Namespace) -> None:
        from pqm_plugin.personal.folder import ModelFolder
        from pqm_plugin.personal.runtime import open_hearing

        given = {name: getattr(wanted, name) for name in ("beam_size", "words_weight", "ctc_weight")}
        search = over(search_options(ModelFolder.of(wanted.model).about()), given)
        self.model = open_hearing(wanted.model, search, runtime=wanted.runtime, n_threads=wanted.threads)
        self.beam_size = search.beam_size
        by_speaker: dict[str, dict[str, Utterance]] = defaultdict(dict)
        everyone = utterances_of(wanted.speech)
        for utterance in everyone:
            by_speaker[utterance.speaker][utterance.utterance] = utterance
        self.chosen = {
            speaker: [known[name] for name in paper_split(known)[wanted.split]][: wanted.utterances]
            for speaker, known in sorted(by_speaker.items())
        }
        self.texts = [utterance.text for utterance in everyone]
        for other in wanted.also:
            self.texts += [utterance.text for utterance in utterances_of(other)]
        self._audio: dict[str, Any] = {}
        self._by_prompt = wanted.prompt

    def audio(self, utterance: Utterance) -> Any:
        """Its samples, float32 (n_samples,)."""
        if utterance.utterance not in self._audio:
            self._audio[utterance.utterance] = load_audio(utterance, self.model.sample_rate)
        return self._audio[utterance.utterance]

    def decode(self, speaker: str, words: WordList | None, adapter: str) -> list[str]:
        """Words of all utterances of a speaker, those of like length together."""
        utterances = self.chosen[speaker]
        folder = self.model.folder.known_speaker(speaker) if adapter == _WITH else None
        if self._by_prompt:
            self._remind(words)
            words = None
        order = sorted(range(len(utterances)), key=lambda place: len(self.audio(utterances[place])))
        texts = [""] * len(utterances)
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            speech = [self.audio(utterances[place]) for place in places]
            found = self.model.search(speech, [folder] * len(places), _LANGUAGE, words)
            for place, best in zip(places, found, strict=True):
                texts[place] = best.text
        return texts

    def _remind(self, words: WordList | None) -> None:
        """Begin with the words as the text before, or with none; the model's own attributes, for this alone."""
        recognizer: Any = self.model.recognizer
        type(recognizer).speak(recognizer, _LANGUAGE)
        if words:
            room, [before] = (
                recognizer._sizes.n_positions // 2 - 1,
                [number for number, name in recognizer._words._named.items() if name == "<|startofprev|>"],
            )
            text = recognizer._words.ids(", ".join(word for word, _ in words.entries))
            recognizer._prompt = (before, *text[:room], *recognizer._prompt)
            recognizer._max_tokens = recognizer._sizes.n_positions - len(recognizer._prompt)
        recognizer.speak = lambda language: None

    def row(self, adapter: str, n_distractors: int | None) -> dict[str, Any]:
        """Errors of all speakers together; no list where `n_distractors` is None, scored by the rare words alone."""
        lists = lists_of(self.chosen, self.texts, n_distractors or 0)
        total: dict[str, float] = defaultdict(int)
        for speaker, utterances in self.chosen.items():
            words, listed = lists[speaker]
            hypotheses = self.decode(speaker, None if n_distractors is None else words, adapter)
            for name, n in score([utterance.text for utterance in utterances], hypotheses, listed).items():
                total[name] += n
        return dict(total)

    def pace(self, n_distractors: int, n_clips: int, turns: int) -> float:
        """How many times as long it takes with a list as without, one clip at a time, in turns; the list is known."""
        lists = lists_of(self.chosen, self.texts, n_distractors)
        each = -(-n_clips // len(self.chosen))
        clips = [(speaker, one) for speaker, found in self.chosen.items() for one in found[:each]]
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(turns + 1):
            for listed in (False, True):
                spent = 0.0
                for speaker, one in clips:
                    speech = [self.audio(one)]
                    start = time.process_time()
                    self.model.search(speech, [None], _LANGUAGE, lists[speaker][0] if listed else None)
                    spent += time.process_time() - start
                if turn:
                    seconds[listed].append(spent)
        return min(seconds[True]) / min(seconds[False])


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """What was measured, in Markdown: errors with a list beside those without."""
    where = ("model", "corpus", "split", "beam_size", "ctc_weight", "adapter", "utterances")
    plain, told = {}, []
    for row in rows:
        place = tuple(row.get(name) for name in where)
        if row["distractors"] is None:
            plain[place] = row
        else:
            told.append((place, row))
    lines = [
        "| model | speech | adapter | list | errors on listed words | on all others | time |",
        "| :-- | :-- | :-- | :-- | --: | --: | --: |",
    ]
    for place, row in sorted(told, key=lambda one: (*map(str, one[0]), one[1].get("by", ""), one[1]["distractors"])):
        before = plain[place]
        cells = [
            f"{before[f'{kind}_errors']:g} → {row[f'{kind}_errors']:g} of {row[f'{kind}_words']:g} "
            f"({100 * (row[f'{kind}_errors'] / max(1, before[f'{kind}_errors']) - 1):+.0f} %)"
            for kind in ("listed", "other")
        ]
        ctc = f", ctc_weight {row['ctc_weight']:g}" if "ctc_weight" in row else ""
        took = f"{row['times_as_long']:.2f}x" if "times_as_long" in row else ""
        list_ = f"own and {row['distractors']}" + (", as prompt" if row.get("by") else "")
        lines.append(
            f"| {row['model']}, beam {row['beam_size']}{ctc} | {row['corpus']}, {row['split']} | "
            f"{'none' if row['adapter'] == _WITHOUT else 'own'} | {list_} | {cells[0]} | {cells[1]} | {took} |"
        )
    return "\n".join(lines) + "\n"


def with_table(page: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """A page with the table between its two marks."""
    before, _, rest = page.partition(_BEGIN)
    return before + _BEGIN + "\n\n" + table(rows) + "\n" + _END + rest.partition(_END)[2]


def main() -> None:
    """Decode what is not in the file yet, and write after every setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, required=True, help="a packed model; its speakers are those of the corpus"
    )
    parser.add_argument("--speech", type=Path, required=True, help="a set of LibriSpeech's layout, or a table")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="corpora whose texts give distractors, too")
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--distractors", type=int, nargs="*", default=[100, 500, 1000])
    parser.add_argument("--adapters", nargs="*", choices=(_WITHOUT, _WITH), default=[_WITHOUT, _WITH])
    parser.add_argument("--utterances", type=int, help="most utterances of a speaker")
    parser.add_argument("--beam_size", type=int)
    parser.add_argument("--ctc_weight", type=float)
    parser.add_argument("--words_weight", type=float)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompt", action="store_true", help="the list as Whisper's prompt instead")
    parser.add_argument("--timed", type=int, default=0, metavar="CLIPS", help="clips whose time is taken")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="write the table of FILE into this page, between its two marks, too")
    wanted = parser.parse_args()
    bench = Bench(wanted)
    known = read_json(wanted.out) if wanted.out.is_file() else {}
    about = circumstances(" ".join(sys.argv), 0, f"{wanted.threads} threads", ("benchmarks",))
    made = {name: about[name] for name in ("commit", "hardware")}
    corpus = wanted.speech.parent.name if wanted.speech.is_file() else wanted.speech.name
    for adapter in wanted.adapters:
        for n_distractors in (None, *wanted.distractors):
            key = {"model": wanted.model.name, "corpus": corpus, "split": wanted.split, "beam_size": bench.beam_size}
            key |= {"adapter": adapter, "distractors": n_distractors, "weight": wanted.words_weight or 1.0}
            key |= {} if wanted.ctc_weight is None else {"ctc_weight": wanted.ctc_weight}
            key |= {"weight": 0.0} if n_distractors is None else {}
            key |= {"utterances": wanted.utterances} if wanted.utterances else {}
            key |= {"by": "prompt"} if wanted.prompt and n_distractors is not None else {}
            name = json.dumps(key, sort_keys=True)
            if name in known:
                continue
            try:
                row = bench.row(adapter, n_distractors)
            except PqmError as error:
                print(error, file=sys.stderr)
                continue
            known[name] = key | row | made
            if wanted.timed and n_distractors is not None and adapter == _WITHOUT:
                known[name]["times_as_long"] = bench.pace(n_distractors, wanted.timed, 3)
            write_json(wanted.out, known)
            print(json.dumps(known[name]), flush=True)
    if wanted.page:
        wanted.page.write_text(with_table(wanted.page.read_text(encoding="utf-8"), known.values()), encoding="utf-8")


if __name__ == "__main__":
    main()
