"""Train a base with ESPnet's own trainer: token list, statistics, training, averaged checkpoint."""

import io
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import sentencepiece
import yaml

from pqm_plugin.errors import PqmError
from pqm_plugin.files import sha256, whole_file, whole_folder, write_text
from pqm_plugin.models.espnet.folder import sample_rate
from pqm_plugin.models.training_folder import claim, digest, read_list, read_lists, tidy
from pqm_plugin.processes import SHORT_SPIN
from pqm_plugin.progress import Bar
from pqm_plugin.settings import read_yaml

_SETTINGS = "an ESPnet training config"
AVERAGED = "valid.acc.ave.pth"
_CRITERION = ["valid", "acc", "max"]
_SPLITS = ("train", "valid")
# What only training needs; `.done` is there before any of it goes.
_SCAFFOLD = (
    "checkpoint.pth",
    "*epoch.pth",
    "*.ave_*best.pth",
    "latest.pth",
    "*.best.pth",
    "data",
    ".lock",
    ".*.partial",
)
_SPEED_RATE = 16000  # in Hz; only ratios of it matter to ESPnet's speed perturbation
_FOLD_LENGTHS = (80000, 150)  # samples and tokens at which a "folded" batch is halved: the values of asr.sh
BLANK, UNKNOWN, SENTENCE, SPACE = "<blank>", "<unk>", "<sos/eos>", "<space>"
TOKEN_TYPES = ("bpe", "char", "word")
_CONTROL_PIECES = 3  # <unk>, <s> and </s> come first in every SentencePiece model
_BATCHES = re.compile(r"\[train\] mini-batch sizes summary: N-batch=(\d+)")
_EPOCH = re.compile(r" (\d+)/(\d+)epoch started")
_STEP = re.compile(r" (\d+)epoch:train:\d+-(\d+)batch: ")
_RESULT = re.compile(
    r" (\d+)epoch results: .*?\[train\].*? loss=([\d.naif]+).*\[valid\].*? acc=([\d.naif]+).*? loss=([\d.naif]+)"
)
_POLL_S = 0.5


@dataclass(frozen=True)
class _Run:
    """What the steps share."""

    out: Path
    config: Path
    token_type: str
    speed_factors: tuple[float, ...]
    ngpu: int
    n_threads: int
    seed: int


def train_base(
    train_data: Path,
    valid_data: Path,
    config: Path,
    out: Path,
    *,
    token_type: str,
    n_tokens: int,
    speed_factors: Sequence[float] = (),
    ngpu: int = 0,
    n_threads: int = 2,
    seed: int = 0,
) -> None:
    """Train a model from Kaldi data folders and leave an ordinary ESPnet experiment folder.

    The same call after a kill goes on from the last whole epoch; once finished it returns at once. Paths in the
    folder's `config.yaml` are relative to the folder, so that it can be moved.

    Args:
        train_data: holds `wav.scp` with plain audio files at the rate of the config's frontend, and `text`.
        config: ESPnet training config (YAML).
        token_type: `bpe`, `char` or `word`; `n_tokens` as in `make_tokens`.
        speed_factors: each training utterance is played at one of these speeds, drawn anew each epoch; 1.0 must be
            among them to be used. Empty for none.
        ngpu: number of GPUs; 0 for the CPU, then with `n_threads` threads.

    Raises:
        PqmError: if a data folder, the config or the number of tokens does not do, if `out` was begun with other
            data or options, or if ESPnet fails.
    """
    _check_config(config)
    run = _Run(out.absolute(), config.absolute(), token_type, tuple(speed_factors), ngpu, n_threads, seed)
    _claim(run, train_data, valid_data, n_tokens)
    if not (run.out / ".done").exists():
        _prepare(run, train_data, valid_data, n_tokens)
        _train(run)
        _finish(run.out)
    tidy(run.out, _SCAFFOLD)


def training_sample_rate(config: Path) -> int:
    """The sample rate in Hz of a model of this training config."""
    return sample_rate(read_yaml(config, _SETTINGS).get("frontend_conf") or {})


def _prepare(run: _Run, train_data: Path, valid_data: Path, n_tokens: int) -> None:
    """Write what the trainer reads: lists, tokens, lengths and statistics."""
    for split, folder in zip(_SPLITS, (train_data, valid_data), strict=True):
        _copy_lists(folder, run.out / "data" / split)
    if not (run.out / "tokens.txt").exists():
        make_tokens(list(read_list(train_data / "text").values()), run.out, run.token_type, n_tokens)
    if not (run.out / "stats").is_dir():
        _collect_statistics(run)


def _check_config(config: Path) -> None:
    """Raise unless ESPnet would keep the checkpoints of best validation accuracy."""
    values = read_yaml(config, _SETTINGS)
    if _CRITERION not in values.get("best_model_criterion", [_CRITERION]):
        raise PqmError(f"{config}: best_model_criterion must hold [valid, acc, max], or there is no {AVERAGED}")


def _claim(run: _Run, train_data: Path, valid_data: Path, n_tokens: int) -> None:
    inputs = {
        "config": sha256(run.config),
        "transcripts": [digest(read_list(folder / "text")) for folder in (train_data, valid_data)],
        "token_type": run.token_type,
        "n_tokens": n_tokens,
        "speed_factors": list(run.speed_factors),
        "seed": run.seed,
    }
    claim(run.out, inputs)


def _copy_lists(source: Path, target: Path) -> None:
    """Copy a data folder's lists with absolute audio paths, since ESPnet runs inside the experiment folder."""
    audio, texts = read_lists(source)
    write_text(target / "wav.scp", "".join(f"{key} {path}\n" for key, path in audio.items()))
    write_text(target / "text", "".join(f"{key} {text}\n" for key, text in texts.items()))


def _collect_statistics(run: _Run) -> None:
    """Write lengths and feature statistics of both data sets to `stats/`."""
    n_tokens = len((run.out / "tokens.txt").read_text(encoding="utf-8").splitlines())
    with whole_folder(run.out / "stats") as folder:
        arguments = ["--collect_stats", "true", "--output_dir", str(folder), "--normalize", "none"]
        _espnet(run, arguments)
        (folder / "config.yaml").unlink()
        for split in _SPLITS:
            # With the vocabulary behind the length, "numel" batches count what the output layer costs.
            shapes = read_list(folder / split / "text_shape")
            lines = (f"{key} {shape},{n_tokens}\n" for key, shape in shapes.items())
            write_text(folder / split / f"text_shape.{run.token_type}", "".join(lines))


def _train(run: _Run) -> None:
    """Run ESPnet's trainer to its last epoch."""
    arguments = ["--output_dir", ".", "--resume", "true", "--seed", str(run.seed)]
    for split in _SPLITS:
        for shape in ("speech_shape", f"text_shape.{run.token_type}"):
            arguments += [f"--{split}_shape_file", f"stats/{split}/{shape}"]
    for length in _FOLD_LENGTHS:
        arguments += ["--fold_length", str(length)]
    if read_yaml(run.config, _SETTINGS).get("normalize") == "global_mvn":
        arguments += ["--normalize_conf", "stats_file=stats/train/feats_stats.npz"]
    if run.speed_factors:
        effects = [[1.0, "speed_perturb", {"factor": factor}] for factor in run.speed_factors]
        settings = {"fs": _SPEED_RATE, "data_aug_prob": 1.0, "data_aug_effects": effects}
        for name, value in settings.items():
            flow = yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize).removesuffix("...\n").strip()
            arguments += ["--preprocessor_conf", f"{name}={flow}"]
    if run.ngpu > 1:
        arguments += ["--multiprocessing_distributed", "true"]
    _espnet(run, arguments, ngpu=run.ngpu)


def _espnet(run: _Run, arguments: Sequence[str], ngpu: int = 0) -> None:
    """Run `espnet2.bin.asr_train` in the experiment folder, appending what it says to `train.log`.

    Raises:
        PqmError: with the last line of the log if it fails.
    """
    command = [sys.executable, "-m", "pqm_plugin.models.espnet.worker", "--config", str(run.config)]
    command += ["--token_type", run.token_type, "--token_list", "tokens.txt", "--ngpu", str(ngpu), *arguments]
    if run.token_type == "bpe":
        command += ["--bpemodel", "bpe.model"]
    for split in _SPLITS:
        for entry in ("wav.scp,speech,sound", "text,text,text"):
            command += [f"--{split}_data_path_and_name_and_type", f"data/{split}/{entry}"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in sys.path if path),
        "OMP_NUM_THREADS": str(run.n_threads),
        "MKL_NUM_THREADS": str(run.n_threads),
        **SHORT_SPIN,
    }
    log = run.out / "train.log"
    with log.open("ab") as written:
        process = subprocess.Popen(command, cwd=run.out, env=environment, stdout=written, stderr=subprocess.STDOUT)
    with TrainingProgress(log) as progress:
        try:
            progress.follow(process)
        finally:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise PqmError(
            f"ESPnet stopped with status {process.returncode} ({progress.last_line}); see {log}, fix it and run the "
            "same command again"
        )


def _finish(out: Path) -> None:
    """Make the averaged checkpoint a file of its own and mark the folder as done."""
    averaged = out / AVERAGED
    if not averaged.exists():
        raise PqmError(f"{out}: ESPnet ended without {AVERAGED}; see {out / 'train.log'}")
    if averaged.is_symlink():
        with whole_file(averaged) as scratch:
            shutil.copyfile(averaged, scratch)
    write_text(out / ".done", "")


def make_tokens(texts: Sequence[str], out: Path, token_type: str, n_tokens: int) -> None:
    """Write `tokens.txt`, and for BPE `bpe.model`, into the folder `out`.

    Args:
        texts: transcripts, in the case and spelling that the model is to write.
        token_type: one of `TOKEN_TYPES`.
        n_tokens: BPE: size of the SentencePiece vocabulary; else at most so many of the most frequent, 0 for all.

    Raises:
        PqmError: if the token type is unknown, or the texts are too few for `n_tokens`.
    """
    if token_type not in TOKEN_TYPES:
        raise PqmError(f"token type {token_type!r}: must be one of {', '.join(TOKEN_TYPES)}")
    if token_type == "bpe":
        tokens = _train_bpe(texts, out / "bpe.model", n_tokens)
    elif token_type == "char":
        tokens = _most_frequent((SPACE if c == " " else c for text in texts for c in text), n_tokens)
    else:
        tokens = _most_frequent((word for text in texts for word in text.split()), n_tokens)
    write_text(out / "tokens.txt", "".join(f"{token}\n" for token in [BLANK, UNKNOWN, *tokens, SENTENCE]))


def _train_bpe(texts: Sequence[str], model: Path, n_tokens: int) -> list[str]:
    """Train a SentencePiece unigram model, as `asr.sh` does by default; one thread keeps its sums reproducible."""
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=written,
            vocab_size=n_tokens,
            model_type="unigram",
            character_coverage=1.0,
            input_sentence_size=100_000_000,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise PqmError(f"{n_tokens} BPE tokens do not fit {len(texts)} transcripts: {_reason(error)}") from error
    with whole_file(model) as scratch:
        scratch.write_bytes(written.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    return [pieces.id_to_piece(index) for index in range(_CONTROL_PIECES, pieces.get_piece_size())]


def _reason(error: RuntimeError) -> str:
    """The last sentence of a SentencePiece message, which starts with a source line and an expression."""
    return str(error).strip().splitlines()[-1].split("] ")[-1]


def _most_frequent(symbols: Iterable[str], n_tokens: int) -> list[str]:
    """The commonest first, equals in the order of their code points."""
    counts = Counter(symbols)
    ordered = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
    return ordered[: n_tokens or None]


class TrainingProgress:
    """A bar over all batches of all epochs, with the time left, and one line for each epoch.

    Reads what is appended to `log` from now on.
    """

    def __init__(self, log: Path) -> None:
        self.last_line = "no word in its log"
        self._log = log.open(encoding="utf-8", errors="replace")
        self._log.seek(0, 2)
        self._rest = ""
        self._bar: Bar | None = None
        self._n_batches = 0
        self._n_epochs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        self._log.close()

    def follow(self, process: subprocess.Popen) -> None:
        """Show the progress of `process` until it ends."""
        while True:
            try:
                process.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                self._read()
                continue
            self._read()
            return

    def _read(self) -> None:
        *lines, self._rest = (self._rest + self._log.read()).split("\n")
        for line in lines:
            if line.strip():
                self.last_line = line.strip()[-300:]
            self._show(line)

    def _show(self, line: str) -> None:
        if found := _BATCHES.search(line):
            self._n_batches = int(found[1])
        elif found := _EPOCH.search(line):
            self._start_epoch(int(found[1]), int(found[2]))
        elif found := _STEP.search(line):
            self._move_to(int(found[1]) - 1, int(found[2]))
        elif found := _RESULT.search(line):
            self._move_to(int(found[1]), 0)
            epoch, train_loss, dev_accuracy, dev_loss = found.groups()
            Bar.write(
                f"epoch {epoch}/{self._n_epochs}: loss {train_loss}, dev loss {dev_loss}, dev accuracy {dev_accuracy}"
            )

    def _start_epoch(self, epoch: int, n_epochs: int) -> None:
        self._n_epochs = n_epochs
        if self._bar is None:
            done = (epoch - 1) * self._n_batches
            self._bar = Bar(
                total=n_epochs * self._n_batches, initial=done, desc="training", unit="batch", mininterval=2
            )

    def _move_to(self, n_epochs_done: int, n_batches_done: int) -> None:
        if self._bar is not None:
            self._bar.update(n_epochs_done * self._n_batches + n_batches_done - self._bar.n)
