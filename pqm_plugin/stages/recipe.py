"""The options of all stages, and the paths of a recipe's files."""

import dataclasses
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, safe_name
from pqm_plugin.models.language import AUTO as AUTO_LANGUAGE
from pqm_plugin.models.language import language_code
from pqm_plugin.quantize.modes import AUTO, MODES, check_mode
from pqm_plugin.stages.config import Config, load_config

LEFT_OUT = "left_out.tsv"
"""What stage 1 lost and why, beside the partition."""
OVERLAP = "overlap.json"
"""What each target speaker's test shares with train, by stage 1, for the report."""
BASE_RECORD = "pqm_base.json"
"""What stage 2 writes into the base's folder when it is whole."""

DECODING_MODES = (*MODES, AUTO)
"""Ways to compute with packed weights, see `common/modes.py`."""

SCORERS = ("jiwer", "sclite")
"""Who counts errors in stage 7; jiwer always does."""

BACKENDS = ("local", "slurm")
"""Where jobs can run."""


def _option(default: Any, text: str) -> Any:
    """A field whose declaration is its help text."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Recipe:
    """The options of `run.sh`; each field is an option of every stage."""

    corpus: Path | None = _option(None, "corpus as distributed")
    reader: str = _option("librispeech", "layout of the corpus: a module of pqm_plugin/corpus/readers")
    base: str = _option("", "folder of ESPnet, Whisper or a CTC model, packed zip, .pt file, name on a hub, or 'train'")
    target_set: str = _option("", "set of the corpus that holds the target speakers")
    sat_sets: tuple[str, ...] = _option((), "sets for LoRA pre-training, '' for none; targets are left out of them")
    train_set: str = _option("", "set that '--base train' trains on")
    valid_set: str = _option("", "set that '--base train' validates on")
    check_set: str = _option("", "speakers like those of the base's training, decoded as a control")
    speakers: tuple[str, ...] = _option(
        (), "target speakers; default: all of the target set, half if it is a SAT set too"
    )
    partition: str = _option("", "'paper' or a JSON file: train, dev and test by name; default: the rule 40/20/40")
    channel: str = _option(
        "", "channel that stage 1 takes of recordings with several, from 0 as in Kaldi; default: average"
    )
    test_sentences: str = _option(
        "anywhere", "texts of test: anywhere in training too, as the corpus is, or 'unseen': in nobody's train and SAT"
    )
    write_lhotse: bool = _option(False, "true: stage 1 writes manifests of lhotse, too, to <datadir>/lhotse")
    scorer: str = _option("jiwer", "jiwer, or sclite: stage 7 has sclite count, too, for tables that were made with it")
    datadir: Path = _option(Path("data"), "Kaldi folders and the partition")
    expdir: Path = _option(Path("exp"), "models, adapters, decodes, results")
    pqm_config: Path | None = _option(None, "YAML of quantisation, LoRA, training and decoding")
    inference_config: Path | None = _option(None, "YAML of another decoding setting, over that of pqm_config")
    language: str = _option(
        "", "of the speech: a name or code, or auto for what a multilingual Whisper finds; default: that of pqm_config"
    )
    family: str = _option("espnet_aed", "model family that '--base train' trains: see pqm_plugin/models/families.py")
    asr_config: Path | None = _option(None, "training configuration for '--base train', in the family's own format")
    token_type: str = _option("bpe", "tokens of '--base train': bpe or char")
    n_tokens: int = _option(500, "size of the token list of '--base train'")
    speed_perturb: tuple[float, ...] = _option((), "speeds at which '--base train' plays its utterances")
    systems: tuple[str, ...] = _option((), "systems to decode; default: all of the table")
    split: str = _option("test", "utterances of the target speakers to decode: test, or dev to choose settings")
    variant: str = _option("", "name of another 4-bit model and its adapters, beside the first: <base>_nf4-<variant>")
    ngpu: int = _option(0, "GPUs; 0 is CPU")
    nj: int = _option(2, "parallel jobs of stage 5, threads of '--base train'")
    n_threads: int = _option(1, "threads of stage 4; the result depends on it in its last bits")
    mode: str = _option("exact", "4-bit weights in stage 6: exact (float32), small (packed) or auto")
    inference_nj: int = _option(2, "parallel jobs of stage 6, one thread each")
    words: Path | None = _option(
        None, "words that stage 6 is to expect, one a line: a file, or a folder with SPEAKER.txt of each; wants --tag"
    )
    tag: str = _option("", "name of a second decoding setting: results_<tag>.json")
    study: Path | None = _option(None, "YAML of the cells of the study: what differs in each from pqm_config")
    title: str = _option("", "heading of RESULTS.md, where report.yaml beside it has none")
    labels: tuple[str, ...] = _option((), "sentences beside every number, where report.yaml has none")
    report: Path | None = _option(None, "folder that stage 8 writes to; default: <expdir>/<base>_nf4")
    command: str = _option("", "command line of the recipe, for the record")
    cmd_backend: str = _option("local", "where the jobs of stages 5 and 6 run: local, or slurm (see docs/cluster.md)")
    speakers_per_job: int = _option(100, "most speakers of one job of stages 5 and 6, for which it loads the base once")
    speakers_per_batch: int = _option(
        1,
        "speakers of stage 5 that are trained in one batch, for a GPU; their adapters depend on it by dropout's draws",
    )
    slurm_partition: str = _option("", "partition of the jobs; default: the cluster's")
    slurm_time: str = _option("12:00:00", "time limit of a job, as sbatch takes it; 0 is none")
    slurm_mem: str = _option("", "memory of a job, such as 4G; default: the cluster's")
    slurm_extra: str = _option("", "further options of sbatch without dashes, such as 'account=me qos=long'")

    def __post_init__(self) -> None:
        check_mode(self.mode, DECODING_MODES)
        if self.scorer not in SCORERS:
            raise PqmError(f"--scorer {self.scorer}: use {' or '.join(SCORERS)}")

    @cached_property
    def _asked(self) -> Config:
        """The resolved YAML, with the code of the language."""
        config = load_config(self.pqm_config, self.inference_config)
        return _spoken_in(config, language_code(self.language or config.decode.language))

    @property
    def config(self) -> Config:
        """The resolved YAML; a language that is to be found is what stage 2 found it to be, or `auto` before."""
        if self.finds_language and self.language_file.is_file():
            return _spoken_in(self._asked, str(read_json(self.language_file)["language"]))
        return self._asked

    @property
    def finds_language(self) -> bool:
        """Whether the language is to be found in the speech, by stage 2."""
        return self._asked.decode.language == AUTO_LANGUAGE

    @property
    def language_file(self) -> Path:
        """The language that stage 2 found, and by which utterances."""
        return self.datadir / f"language_{self.base_name}.json"

    @property
    def base_name(self) -> str:
        """Folder name of the base under `expdir`."""
        if not self.base:
            raise PqmError("--base is missing: give a model's folder, a packed file, its name on a hub, or 'train'")
        if self.base == "train":
            return "asr_" + (self.asr_config.stem if self.asr_config else "train")
        path = Path(self.base).expanduser()
        # A name with a slash that is not a path here is a model-zoo tag.
        name = path.resolve().name if path.exists() or path.is_absolute() else self.base
        plain = re.sub(r"\.(zip|tgz|tar\.gz|tar|pt)$", "", re.sub(r"[^A-Za-z0-9._-]", "_", name))
        return safe_name(plain, "base")

    @property
    def device(self) -> str:
        """Where torch computes."""
        return "cuda" if self.ngpu > 0 else "cpu"

    @property
    def base_dir(self) -> Path:
        """The float model, stage 2."""
        return self.expdir / self.base_name

    @property
    def packed_dir(self) -> Path:
        """The 4-bit model, stage 3, and everything that is measured on it."""
        return self.adapter_dir("nf4")

    def _beside(self, kind: str) -> str:
        if not self.variant:
            return f"{self.base_name}_{kind}"
        if self.variant == "rtn" or self.variant.startswith("rtn-"):
            raise PqmError(f"--variant {self.variant}: nf4-rtn is the model without calibration; use another name")
        return f"{self.base_name}_{kind}-{safe_name(self.variant, 'variant')}"

    @property
    def partition_file(self) -> Path:
        """Who is in which split, stage 1."""
        return self.datadir / "partition.tsv"

    def decoded(self, set_name: str, split: str = "test") -> str:
        """Folder name of a decoded set: with its split if not test, and the name of a second decoding setting."""
        return "_".join([set_name, *([split] if split != "test" else []), *([self.tag] if self.tag else [])])

    def data(self, set_name: str) -> Path:
        """Kaldi folder of a set."""
        return self.datadir / set_name

    def adapter_dir(self, base_kind: str) -> Path:
        """Folder of `sat/` and `speakers/` for adapters of a base kind, and of its weights if they are packed."""
        return self.expdir / self._beside(base_kind)

    def decode_dir(self, system: str, set_name: str) -> Path:
        """Where stage 6 writes the words of a system."""
        return self.packed_dir / f"decode_{system}" / set_name


def _spoken_in(config: Config, language: str) -> Config:
    same = config.decode.language == language
    return config if same else dataclasses.replace(config, decode=dataclasses.replace(config.decode, language=language))


def options() -> tuple[dataclasses.Field[object], ...]:
    """The fields of `Recipe`, for the command line."""
    return dataclasses.fields(Recipe)
