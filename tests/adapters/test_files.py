"""What an adapter's configuration may say; tests/personal/test_fuzz.py has what it may not."""

from peft import LoraConfig

from pqm_plugin.adapters.files import _USUAL


def test_what_counts_as_usual_is_what_the_installed_peft_writes():
    written = LoraConfig().to_dict()

    assert {name: written[name] for name in _USUAL} == _USUAL
