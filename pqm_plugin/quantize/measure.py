"""What quantisation did to a network: parameters, bytes and error of each kind of layer."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from pqm_plugin.quantize.layers import packed_layers


def weights_of(network: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Copies of the named layers' float weights, to be compared with afterwards."""
    return {name: network.get_parameter(f"{name}.weight").detach().clone() for name in names}


def measure(network: nn.Module, kinds: Mapping[str, str], before: Mapping[str, Tensor]) -> dict[str, Any]:
    """Parameters, bytes and relative RMS error of each kind of layer, and how many parameters stayed as they were.

    Args:
        kinds: kind of every quantised layer, by name.
        before: their float weights, see `weights_of`.
    """
    rows: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    seen: set[int] = set()
    for name, layer in packed_layers(network).items():
        row = rows[kinds[name]]
        row["layers"] += 1
        if id(layer.packed) in seen:  # a weight that two layers share
            continue
        seen.add(id(layer.packed))
        row["parameters"] += before[name].numel()
        row["size_bytes"] += layer.packed.size_bytes
        row["error"] += float((layer.weight - before[name]).square().sum())
        row["energy"] += float(before[name].square().sum())
    table = [
        {
            "kind": kind,
            "layers": int(row["layers"]),
            "parameters": int(row["parameters"]),
            "size_bytes": int(row["size_bytes"]),
            "relative_error": (row["error"] / row["energy"]) ** 0.5,
        }
        for kind, row in sorted(rows.items())
    ]
    rest = sum(parameter.numel() for parameter in network.parameters())
    quantized = int(sum(row["parameters"] for row in rows.values()))
    return {"kinds": table, "parameters": quantized + rest, "parameters_not_quantized": rest}
