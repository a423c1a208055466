"""A model so small that a test can train it; the benchmarks use it too."""

from pathlib import Path


def make_tiny_base(folder: Path) -> Path:
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
