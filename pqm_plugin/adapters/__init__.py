"""LoRA through peft: attach, train, save, load, switch."""
