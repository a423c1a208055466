"""A run that goes on has what it had, wherever its parameters are by then."""

import torch
from torch import nn

from pqm_plugin.adapters.state import Checkpoint, Epoch, TrainingState


def begun(device="cpu"):
    """Two parameters in two groups, of which the second is listed first, as the loop with other rates has them."""
    torch.manual_seed(0)
    parameters = {name: nn.Parameter(torch.randn(3, device="cpu").to(device)) for name in ("down", "up")}
    optimizer = torch.optim.Adam([{"params": [parameters["up"]]}, {"params": [parameters["down"]]}], lr=0.1)
    return parameters, optimizer, TrainingState(parameters, optimizer, "loss")


def keep(path, state):
    """Note an epoch and write the state, as the loop does after every epoch."""
    state.take_in(Epoch(0, 0.0, 0.0, 1.0, 0.5))
    Checkpoint(path, state).write()


def learn(parameters, optimizer):
    optimizer.zero_grad()
    (parameters["down"].square().sum() + 3 * parameters["up"].sum()).backward()
    optimizer.step()


def test_a_run_that_goes_on_steps_to_the_bits_of_one_that_never_stopped(tmp_path):
    whole, optimizer, state = begun()
    learn(whole, optimizer)
    keep(tmp_path / "run", state)
    learn(whole, optimizer)

    resumed, optimizer, state = begun()
    assert Checkpoint(tmp_path / "run", state).resume()
    learn(resumed, optimizer)

    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_moments_go_to_the_device_of_their_parameters_and_steps_stay_where_adam_wants_them(tmp_path):
    parameters, optimizer, state = begun()
    learn(parameters, optimizer)
    keep(tmp_path / "run", state)

    elsewhere, optimizer, state = begun("meta")
    assert Checkpoint(tmp_path / "run", state).resume()

    for value in elsewhere.values():
        state = optimizer.state[value]
        assert {name: one.device.type for name, one in state.items()} == {
            "step": "cpu",
            "exp_avg": "meta",
            "exp_avg_sq": "meta",
        }
        assert int(state["step"]) == 1


def test_a_run_that_has_not_stepped_yet_goes_on_without_moments(tmp_path):
    _, _, state = begun()
    keep(tmp_path / "run", state)

    _, optimizer, state = begun()

    assert Checkpoint(tmp_path / "run", state).resume()
    assert not optimizer.state
