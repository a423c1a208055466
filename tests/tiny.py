"""Models so small that a test can train them; the benchmarks use them too."""

from pathlib import Path


def make_tiny_conformer(folder: Path) -> Path:
    """Write a genuine ESPnet Conformer AED of 30,000 random weights and 30 character tokens."""
    import torch
    import yaml
    from espnet2.tasks.asr import ASRTask

    folder.mkdir(parents=True)
    tokens = ["<blank>", "<unk>", "<space>", "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "<sos/eos>"]
    small = {"attention_heads": 2, "linear_units": 24, "num_blocks": 1}
    config = ASRTask.get_default_config() | {
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
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "tokens.txt").write_text("\n".join(tokens) + "\n")
    torch.manual_seed(0)
    model, _ = ASRTask.build_model_from_file(folder / "config.yaml", None, "cpu")
    torch.save(model.state_dict(), folder / "valid.acc.ave.pth")
    return folder


def make_tiny_whisper(folder: Path, n_positions: int = 24) -> Path:
    """Write a genuine Whisper of 15,000 random weights, bytes as tokens and a window of two seconds."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder.mkdir(parents=True)
    tokenizer = WhisperTokenizer(
        vocab={char: place for place, char in enumerate(bytes_to_unicode().values())}, merges=[]
    )
    tokenizer.add_tokens(["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=20, chunk_length=2).save_pretrained(folder)
    layers = {"layers": 1, "attention_heads": 2, "ffn_dim": 24}
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=20,
        d_model=16,
        max_source_positions=100,
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
        no_timestamps_token_id=258,
        max_length=n_positions,
        is_multilingual=False,
        return_timestamps=False,
    )
    model.save_pretrained(folder)
    return folder
