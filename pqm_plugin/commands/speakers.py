"""List whose voices a model knows."""

import argparse

from pqm_plugin.commands.options import add_model


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model(parser)


def run(parsed: argparse.Namespace) -> int:
    """A line a speaker: name, size, and from how many recordings."""
    from pqm_plugin.personal.facts import adapter_facts
    from pqm_plugin.personal.folder import SPEAKERS, ModelFolder

    folder = ModelFolder.of(parsed.model)
    for name in folder.speakers():
        facts = adapter_facts(folder.path / SPEAKERS / name)
        print(f"{name}\t{facts['size_bytes'] / 1e6:.2f} MB\t{facts['learned_from']}")
    return 0
