"""The parts of stage 5."""
