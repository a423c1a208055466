"""Models so small that a test can train them; the benchmarks use them too."""

from collections.abc import Sequence
from pathlib import Path


def make_tiny_conformer(folder: Path, **changes: object) -> Path:
    """Write a genuine ESPnet Conformer AED of 30,000 random weights and 30 character tokens.

    `changes` take the place of the configuration's values.
    """
    import torch
    import yaml
    from espnet2.tasks.asr import ASRTask

    folder.mkdir(parents=True)
    tokens = ["<blank>", "<unk>", "<space>", "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "<sos/eos>"]
    small = {"attention_heads": 2, "linear_units": 24, "num_blocks": 1}
    config = (
        ASRTask.get_default_config()
        | {
            "token_list": tokens,
            "token_type": "char",
            "init": None,
            "frontend_conf": {"fs": "16k", "n_mels": 20, "hop_length": 160},
            "specaug": None,
            "normalize": "utterance_mvn",
            "normalize_conf": {},
            "encoder": "conformer",
            "encoder_conf": {
                **small,
                "output_size": 24,
                "macaron_style": True,
                "use_cnn_module": True,
                "cnn_module_kernel": 7,
                "pos_enc_layer_type": "rel_pos",
                "selfattention_layer_type": "rel_selfattn",
                "rel_pos_type": "latest",
            },
            "decoder": "transformer",
            "decoder_conf": small,
            "model_conf": {"ctc_weight": 0.3},
        }
        | changes
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "tokens.txt").write_text("\n".join(tokens) + "\n")
    torch.manual_seed(0)
    model, _ = ASRTask.build_model_from_file(folder / "config.yaml", None, "cpu")
    torch.save(model.state_dict(), folder / "valid.acc.ave.pth")
    return folder


LANGUAGES = ("en", "de", "hi")
"""What the tiny multilingual Whisper knows."""


def make_tiny_whisper(folder: Path, n_positions: int = 24, languages: Sequence[str] = (), window_s: int = 2) -> Path:
    """Write a genuine Whisper of 15,000 random weights, bytes as tokens and a window of two seconds or so many.

    It is multilingual where `languages` are given.
    """
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder.mkdir(parents=True)
    tokenizer = WhisperTokenizer(
        vocab={char: place for place, char in enumerate(bytes_to_unicode().values())}, merges=[]
    )
    spoken, tasks = [f"<|{code}|>" for code in languages], ["<|transcribe|>", "<|translate|>"] if languages else []
    # What is behind "no timestamps" is a timestamp.
    named = ["<|endoftext|>", "<|startoftranscript|>", *spoken, *tasks, "<|notimestamps|>"]
    tokenizer.add_tokens(named, special_tokens=True)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=20, chunk_length=window_s).save_pretrained(folder)
    layers = {"layers": 1, "attention_heads": 2, "ffn_dim": 24}
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=20,
        d_model=16,
        max_source_positions=50 * window_s,
        max_target_positions=n_positions,
        init_std=0.3,
        decoder_start_token_id=257,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 256),
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in layers.items()},
    )
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    vars(model.generation_config).update(
        _from_model_config=False,
        no_timestamps_token_id=tokenizer.convert_tokens_to_ids("<|notimestamps|>"),
        max_length=n_positions,
        is_multilingual=bool(languages),
        return_timestamps=False,
    )
    if languages:
        vars(model.generation_config).update(
            lang_to_id={name: tokenizer.convert_tokens_to_ids(name) for name in spoken},
            task_to_id={name.strip("<|>"): tokenizer.convert_tokens_to_ids(name) for name in tasks},
        )
    model.save_pretrained(folder)
    return folder


def prefer_language(folder: Path, code: str) -> Path:
    """Let the tiny multilingual Whisper in `folder` find this language in whatever it hears."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    start = torch.tensor([[model.generation_config.decoder_start_token_id]])
    with torch.no_grad():
        hidden = model.model(torch.zeros(1, 20, 200), decoder_input_ids=start).last_hidden_state[0, 0]
    path = folder / "model.safetensors"
    state = load_file(path)
    embeddings, languages = state["model.decoder.embed_tokens.weight"], model.generation_config.lang_to_id
    for name, token in languages.items():
        embeddings[token] = hidden if name == f"<|{code}|>" else embeddings[token] - hidden
    save_file(state, path, {"format": "pt"})
    return folder


CTC_TYPES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio")


def make_tiny_ctc(folder: Path, model_type: str = "wav2vec2", **settings: object) -> Path:
    """Write a genuine CTC model of transformers: 24,000 random weights, 50 frames a second, 32 character tokens."""
    import json

    import torch
    from transformers import AutoConfig, AutoModelForCTC, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

    folder.mkdir(parents=True)
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    Wav2Vec2CTCTokenizer(folder / "vocab.json").save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)
    config = AutoConfig.for_model(
        model_type,
        **{
            "vocab_size": len(tokens),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "conv_dim": (16, 16, 16),
            "conv_kernel": (10, 8, 4),
            "conv_stride": (8, 8, 5),
            "num_feat_extract_layers": 3,
            "num_conv_pos_embeddings": 5 if model_type == "data2vec-audio" else 16,
            "num_conv_pos_embedding_groups": 4,
            "initializer_range": 0.1,
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
            **settings,
        },
    )
    torch.manual_seed(0)
    AutoModelForCTC.from_config(config).save_pretrained(folder)
    return folder
